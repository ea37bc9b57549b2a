import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import { randomFor } from "./random.ts";
import { sampleToken } from "./sample_token.ts";

const LOGITS = Float32Array.from([0.1, 0.4, 0.2, 0.3], Math.log);
const DRAWS = 20_000;

function frequencies(temperature: number, topP: number): number[] {
  const random = randomFor(1, "stories");
  const counts = [0, 0, 0, 0];
  for (let i = 0; i < DRAWS; i++) counts[sampleToken(LOGITS, { temperature, topP, random })]!++;
  return counts.map((count) => count / DRAWS);
}

/** Within five standard deviations of a frequency over so many draws. */
function isNear(found: readonly number[], expected: readonly number[]): void {
  found.forEach((share, id) => ok(Math.abs(share - expected[id]!) <= 5 * Math.sqrt(0.25 / DRAWS), `${found}`));
}

describe("sampleToken()", () => {
  it("draws each token as often as it is likely", () => isNear(frequencies(1, 1), [0.1, 0.4, 0.2, 0.3]));

  it("raises probabilities to the inverse of the temperature", () => {
    isNear(frequencies(0.5, 1), [1, 16, 4, 9].map((square) => square / 30));
  });

  it("keeps only the most likely tokens that together reach topP", () => {
    isNear(frequencies(1, 0.69), [0, 4 / 7, 0, 3 / 7]);
    isNear(frequencies(1, 0.75), [0, 4 / 9, 2 / 9, 3 / 9]);
    deepEqual(frequencies(1, 0.1), [0, 1, 0, 0]);
  });

  it("gives a token whatever is drawn", () => {
    equal(sampleToken(LOGITS, { temperature: 1, topP: 1, random: () => 1 - 2 ** -53 }), 3);
    equal(sampleToken(LOGITS, { temperature: 1, topP: 1, random: () => 0 }), 0);
  });
});
