import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok } from "node:assert/strict";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { uniformInt } from "pure-rand/distribution/uniformInt";
import { wordSplitter } from "./bpe_words.ts";

/** Byte-pair encoding by its definition: merge the best-ranked pair that there is, the leftmost first, until none is. */
function encode(text: string, merges: readonly (readonly [string, string])[]): string[] {
  let tokens = [...text];
  for (;;) {
    const ranked = tokens.slice(1).map((token, i) =>
      merges.findIndex(([left, right]) => left === tokens[i] && right === token)
    );
    const best = Math.min(...ranked.filter((rank) => rank >= 0));
    if (best === Infinity) return tokens;
    const at = ranked.indexOf(best);
    tokens = [...tokens.slice(0, at), tokens[at]! + tokens[at + 1]!, ...tokens.slice(at + 2)];
  }
}

describe("wordSplitter()", () => {
  it("cuts where no token has the two characters side by side", () => {
    const split = wordSplitter(["▁the", "▁▁", "s.", "🙂🙂"]);
    deepEqual(split("▁the▁▁thes.▁🙂🙂a"), ["▁the", "▁▁the", "s.", "▁", "🙂🙂", "a"]);
    deepEqual(split(""), []);
  });

  it("changes no token of byte-pair encoding, for random merges and texts", () => {
    const random = xoroshiro128plus(7);
    const pick = <T>(items: readonly T[]): T => items[uniformInt(random, 0, items.length - 1)]!;
    let cuts = 0;
    for (let round = 0; round < 200; round++) {
      const tokens = ["▁", "a", "b", "c", "d", "é"];
      const merges: [string, string][] = [];
      for (let i = 0; i < 8; i++) {
        const merge: [string, string] = [pick(tokens), pick(tokens)];
        if (tokens.includes(merge.join(""))) continue;
        merges.push(merge);
        tokens.push(merge.join(""));
      }
      const split = wordSplitter(merges.map((merge) => merge.join("")));
      const text = Array.from({ length: 30 }, () => pick(tokens.slice(0, 6))).join("");
      const words = split(text);
      cuts += words.length - 1;
      deepEqual(words.flatMap((word) => encode(word, merges)), encode(text, merges), JSON.stringify({ merges, text }));
    }
    ok(cuts > 1000, `only ${cuts} cuts were made`);
  });
});
