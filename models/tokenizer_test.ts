import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, notEqual, throws } from "node:assert/strict";
import { existsSync } from "node:fs";
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { uniformInt } from "pure-rand/distribution/uniformInt";
import { readPythonJsonObject } from "./python_json.ts";
import { Tokenizer } from "./tokenizer.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";

const added = (id: number, content: string, special: boolean) => ({
  id,
  content,
  special,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
});

function bpe(tokens: readonly string[], merges: string[][], own: object) {
  return { type: "BPE", vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges, ...own };
}

/** GPT-2's characters for bytes: printable Latin-1 as it is, the rest from U+0100 on. */
const BYTE_CHARACTERS = (() => {
  const isPrintable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPrintable(byte) ? byte : next++));
})();

/** All bytes, some merges (`Ã` and `©` are the bytes of é), a special token and one that is not. */
function byteLevel(): TokenizerFiles {
  const merges = [["Ġ", "a"], ["Ã", "©"], ["h", "i"], ["ð", "Ł"]];
  const tokens = [...BYTE_CHARACTERS, ...merges.map((merge) => merge.join("")), "<|end|>", "<tool>"];
  return {
    tokenizerJson: {
      added_tokens: [added(260, "<|end|>", true), added(261, "<tool>", false)],
      normalizer: null,
      pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
      post_processor: null,
      decoder: { type: "ByteLevel" },
      model: bpe(tokens.slice(0, 260), merges, {}),
    },
    tokenizerConfig: { bos_token: null, eos_token: { content: "<|end|>" }, clean_up_tokenization_spaces: true },
  };
}

const SPECIAL = ["<unk>", "<s>", "</s>"];
const BYTES = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);

/** SentencePiece's kind: `▁` for spaces, one in front, and bytes where a character is not in the vocabulary. */
function sentencePiece(): TokenizerFiles {
  const merges = [["▁", "a"], ["▁", "h"], ["▁h", "i"], ["▁", "▁"]];
  const tokens = [...SPECIAL, ...BYTES, "▁", "a", "h", "i", ".", ...merges.map((merge) => merge.join(""))];
  return {
    tokenizerJson: {
      added_tokens: SPECIAL.map((content, id) => added(id, content, true)),
      normalizer: {
        type: "Sequence",
        normalizers: [{ type: "Prepend", prepend: "▁" }, {
          type: "Replace",
          pattern: { String: " " },
          content: "▁",
        }],
      },
      pre_tokenizer: null,
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [],
        special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
      },
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "▁" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
      model: bpe(tokens, merges, { unk_token: "<unk>", fuse_unk: true, byte_fallback: true }),
    },
    tokenizerConfig: { bos_token: "<s>", eos_token: "</s>" },
  };
}

const KINDS: [string, TokenizerFiles][] = [["byte-level", byteLevel()], ["SentencePiece", sentencePiece()]];
const TEXTS = ["", "hi", " a hi", "  a  ", "née 🙂 中文", "a\n\n\thi .", "\ufeffa", "🙂🙂", "hi . a 's"];
const PLAIN = { addSpecialTokens: false };

/** The pieces of a stream, one for each token and the last for its end. */
function pieces(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const stream = tokenizer.stream();
  return [...ids.map((id) => stream.push(id)), stream.flush()];
}

describe("Tokenizer", () => {
  for (const [kind, files] of KINDS) {
    const tokenizer = new Tokenizer(files);

    it(`gives back every text that it encoded (${kind})`, () => {
      for (const text of TEXTS) equal(tokenizer.decode(tokenizer.encode(text, PLAIN)), text);
    });

    it(`encodes as the library does on the whole text (${kind})`, () => {
      const library = new LibraryTokenizer(files.tokenizerJson, files.tokenizerConfig);
      for (const text of TEXTS) {
        deepEqual(tokenizer.encode(text, PLAIN), library.encode(text, { add_special_tokens: false }).ids, text);
      }
    });

    it(`streams pieces that make up the decoded text, for any tokens (${kind})`, () => {
      const random = xoroshiro128plus(11);
      for (let round = 0; round < 100; round++) {
        const ids = Array.from({ length: 20 }, () => uniformInt(random, 0, tokenizer.vocabSize - 1));
        equal(pieces(tokenizer, ids).join(""), tokenizer.decode(ids));
      }
    });

    it(`streams no part of a character (${kind})`, () => {
      const ids = tokenizer.encode("née 🙂 中", PLAIN);
      const found = pieces(tokenizer, ids);
      equal(found.join(""), "née 🙂 中");
      for (const piece of found) equal(piece.includes("\ufffd"), false, JSON.stringify(found));
    });

    it(`ends a stream inside a character with U+FFFD (${kind})`, () => {
      const ids = tokenizer.encode("a🙂", PLAIN).slice(0, -1);
      const found = pieces(tokenizer, ids);
      equal(found.at(-1), "\ufffd");
      equal(found.slice(0, -1).join(""), "a");
    });

    it(`takes an id beyond the vocabulary for no text (${kind})`, () => {
      const ids = tokenizer.encode("hi", PLAIN);
      equal(tokenizer.decode([...ids, tokenizer.vocabSize + 5]), "hi");
    });
  }

  const bytes = new Tokenizer(byteLevel());
  const pieceTokenizer = new Tokenizer(sentencePiece());

  it("adds special tokens where it is told to", () => {
    deepEqual(pieceTokenizer.encode("a", { addSpecialTokens: true }).map((id) => pieceTokenizer.tokenText(id)), [
      "<s>",
      " a",
    ]);
    equal(pieceTokenizer.encode("a", PLAIN).length, 1);
  });

  it("leaves special tokens out of the text, and other added tokens in", () => {
    deepEqual(bytes.encode("hi<|end|><tool>", PLAIN).slice(1), [260, 261]);
    equal(bytes.decode(bytes.encode("hi<|end|><tool>a", PLAIN)), "hi<tool>a");
    equal(bytes.tokenText(260), "<|end|>");
  });

  it("keeps the space before a continuation, and drops it before a whole text", () => {
    const ids = pieceTokenizer.encode("hi a", PLAIN);
    equal(pieceTokenizer.decode(ids), "hi a");
    equal(pieceTokenizer.decode(ids, { continues: true }), " hi a");
    equal(bytes.decode(bytes.encode(" a", PLAIN)), " a");
  });

  it("drops the leading space even where special tokens come first", () => {
    equal(pieceTokenizer.decode(pieceTokenizer.encode("hi", { addSpecialTokens: true })), "hi");
  });

  it("does not take spaces away before punctuation, whatever the configuration says", () => {
    equal(bytes.decode(bytes.encode("hi . a 's", PLAIN)), "hi . a 's");
  });

  it("shows tokens that are parts of characters as U+FFFD, and knows their bytes", () => {
    const [first] = bytes.encode("🙂", PLAIN);
    equal(bytes.tokenText(first!), "\ufffd");
    deepEqual([...bytes.tokenBytes(first!)], [0xf0, 0x9f]);
  });

  it("knows its size and its end tokens", () => {
    equal(bytes.vocabSize, 262);
    deepEqual([bytes.bosTokenId, bytes.eosTokenId], [null, 260]);
    deepEqual([pieceTokenizer.bosTokenId, pieceTokenizer.eosTokenId], [1, 2]);
    equal(pieceTokenizer.tokenId("nowhere"), null);
  });

  it("refuses files that make no tokenizer, or decode in a way that it does not know", () => {
    const { tokenizerJson, tokenizerConfig } = byteLevel();
    const withJson = (own: object) => () =>
      new Tokenizer({ tokenizerJson: { ...tokenizerJson, ...own }, tokenizerConfig });
    throws(withJson({ decoder: { type: "WordPiece" } }), { name: "RangeError", message: /decoder .*WordPiece/ });
    throws(withJson({ decoder: null }), { name: "RangeError", message: /decoder null is not supported/ });
    throws(withJson({ added_tokens: [{ id: -1 }] }), { name: "RangeError", message: /added_tokens.0.id/ });
    throws(withJson({ pre_tokenizer: { type: "Nothing" } }), { name: "RangeError", message: /Nothing/ });
  });
});

const stories = new URL("../../shared/data/models/stories260K/", import.meta.url).pathname;

if (existsSync(stories)) {
  describe("Tokenizer of stories260K", () => {
    it("gives the ids that the original gives", async () => {
      const [tokenizerJson, tokenizerConfig, expected] = await Promise.all(
        ["tokenizer.json", "tokenizer_config.json", "expected.json"].map((name) =>
          readPythonJsonObject(stories + name)
        ),
      );
      const tokenizer = new Tokenizer({ tokenizerJson: tokenizerJson!, tokenizerConfig: tokenizerConfig! });
      const { samples } = expected!.tokenizer as { samples: { text: string; ids: number[] }[] };
      notEqual(samples.length, 0);
      for (const { text, ids } of samples) {
        deepEqual(tokenizer.encode(text, PLAIN), ids, text);
        equal(tokenizer.decode(ids), text);
      }
    });
  });
}
