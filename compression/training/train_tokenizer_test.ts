import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, throws } from "node:assert/strict";
import { Tokenizer } from "../../models/tokenizer.ts";
import { trainTokenizer } from "./train_tokenizer.ts";

const TEXTS = [
  "The cat sat on the mat. The cat's mat is the best mat, isn't it?",
  "The rat sat on the cat; then the cat sat on the rat.\n\nThe end, the end, the end.",
];
const STRANGE = [
  "",
  " ",
  "  two  spaces \n\n\ttabs\r\n",
  "it's we'll THE Mat123 4.5",
  "naïve café – “q” 🙂 中文 \u0000\u00ad\ufeff",
  "<|endoftext", // not the special token
];

describe("trainTokenizer()", () => {
  const files = trainTokenizer(TEXTS, 270);
  const tokenizer = new Tokenizer(files);
  const ids = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });

  it("makes as many tokens as were wanted, and gives <|endoftext|> the id 0", () => {
    equal(tokenizer.vocabSize, 270);
    equal(tokenizer.bosTokenId, 0);
    equal(tokenizer.eosTokenId, 0);
    deepEqual(tokenizer.encode("The", { addSpecialTokens: true }), [0, ...ids("The")]);
    deepEqual(ids("<|endoftext|>"), [0]);
  });

  it("brings back any text", () => {
    for (const text of [...TEXTS, ...STRANGE]) equal(tokenizer.decode(ids(text)), text);
  });

  it("merges what is frequent first", () => {
    const { merges } = files.tokenizerJson.model as { merges: string[][] };
    // "at" is in each cat, rat, sat and mat, and in nothing more often than that.
    deepEqual(merges[0], ["a", "t"]);
    deepEqual(ids(" the").length, 1);
  });

  it("merges within words only", () => {
    const { vocab } = files.tokenizerJson.model as { vocab: Record<string, number> };
    for (const token of Object.keys(vocab)) equal(token.lastIndexOf("Ġ") > 0, false, token);
  });

  it("gives the same for the same texts in another order", () => {
    deepEqual(trainTokenizer(TEXTS.toReversed(), 270), files);
  });

  it("refuses texts that are too small for the vocabulary", () => {
    throws(() => trainTokenizer(["ababab"], 300), { // "ab" and "abab" are all that occurs twice
      name: "RangeError",
      message: "Cannot learn a vocabulary of 300 tokens: these texts give only 259",
    });
  });
});
