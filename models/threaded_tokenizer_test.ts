import { deepEqual, equal, rejects, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { openArtefact } from "./artefact.ts";
import { ThreadedTokenizer } from "./threaded_tokenizer.ts";
import { Tokenizer } from "./tokenizer.ts";

const files = (await openArtefact("artifacts/demo")).tokenizer!;
const LONG = "Once upon a time there was a little girl named Lily. ".repeat(2500);

describe("ThreadedTokenizer", () => {
  it("gives the tokens of a plain one, for short texts and long ones", async () => {
    using threaded = new ThreadedTokenizer(files);
    const plain = new Tokenizer(files);
    for (const text of ["", "Once", LONG]) {
      for (const addSpecialTokens of [false, true]) {
        deepEqual(await threaded.encode(text, { addSpecialTokens }), plain.encode(text, { addSpecialTokens }));
      }
    }
  });

  it("gives each of many texts its own tokens, and short ones do not wait for long ones", async () => {
    using threaded = new ThreadedTokenizer(files);
    const plain = new Tokenizer(files);
    const texts = Array.from({ length: 8 }, (_, i) => LONG.slice(i, 20_000 + 100 * i));
    const ended: string[] = [];
    const long = texts.map((text, i) =>
      threaded.encode(text, { addSpecialTokens: true }).then((tokens) => {
        ended.push(`long ${i}`);
        return tokens;
      })
    );
    await threaded.encode("Once", { addSpecialTokens: true });
    ended.push("short");
    deepEqual(await Promise.all(long), texts.map((text) => plain.encode(text, { addSpecialTokens: true })));
    equal(ended[0], "short");
  });

  it("leaves the event loop free while a long text is encoded", async () => {
    using threaded = new ThreadedTokenizer(files);
    let turns = 0;
    let done = false;
    const encoded = threaded.encode(LONG, { addSpecialTokens: true }).then(() => done = true);
    while (!done) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      turns++;
    }
    await encoded;
    // Encoded here, it would be done before the first turn.
    equal(turns > 1, true, `${turns} turns`);
  });

  it("tells those who wait when it is closed, and those who come later", async () => {
    const threaded = new ThreadedTokenizer(files);
    const waits = rejects(threaded.encode(LONG, { addSpecialTokens: true }), /The tokenizer is closed/);
    threaded[Symbol.dispose]();
    await waits;
    await rejects(threaded.encode(LONG, { addSpecialTokens: true }), /The tokenizer is closed/);
  });

  it("refuses files that make no tokenizer at once", () => {
    throws(() => new ThreadedTokenizer({ tokenizerJson: {}, tokenizerConfig: {} }), RangeError);
  });
});
