import { describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import type { Llama3RopeScaling } from "./description.ts";
import { KNOWN_SHAPES } from "./known_shapes.ts";
import { ropeFrequencies } from "./rope.ts";

/** Llama 3.1's bands by wavelength, as its reference configuration states them: another way to the same numbers. */
function byWavelength(theta: number, headDim: number, scaling: Llama3RopeScaling): number[] {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings } = scaling;
  const longest = originalMaxPositionEmbeddings / lowFreqFactor;
  const shortest = originalMaxPositionEmbeddings / highFreqFactor;
  return Array.from({ length: headDim / 2 }, (_, pair) => {
    const wavelength = 2 * Math.PI * Math.exp(2 * pair / headDim * Math.log(theta));
    if (wavelength < shortest) return 2 * Math.PI / wavelength;
    if (wavelength > longest) return 2 * Math.PI / (wavelength * factor);
    const smooth = (originalMaxPositionEmbeddings / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return 2 * Math.PI / wavelength * (smooth + (1 - smooth) / factor);
  });
}

function closeTo(actual: Float32Array, expected: readonly number[]): void {
  equal(actual.length, expected.length);
  // Half a unit in the last place of a float32, and what the exponential above is off.
  expected.forEach((value, i) => ok(Math.abs(actual[i]! / value - 1) < 1e-7, `pair ${i}: ${actual[i]}, not ${value}`));
}

describe("ropeFrequencies()", () => {
  it("falls from one radian per token geometrically", () => {
    closeTo(ropeFrequencies({ theta: 10_000, scaling: null }, 8), [1, 0.1, 0.01, 0.001]);
  });

  it("divides every frequency where scaling is linear", () => {
    const scaling = { kind: "linear" as const, factor: 4 };
    closeTo(ropeFrequencies({ theta: 10_000, scaling }, 8), [0.25, 0.025, 0.0025, 0.00025]);
  });

  for (const name of ["llama-3.2-1b", "llama-3.1-8b"] as const) {
    it(`follows the bands of ${name}`, () => {
      const { rope, headDim } = KNOWN_SHAPES[name];
      const expected = byWavelength(rope.theta, headDim, rope.scaling);
      closeTo(ropeFrequencies(rope, headDim), expected);
      // All three bands occur, or the comparison says little.
      const plain = ropeFrequencies({ theta: rope.theta, scaling: null }, headDim);
      const ratios = expected.map((value, i) => value / plain[i]!);
      const near = (value: number) => ratios.filter((ratio) => Math.abs(ratio - value) < 1e-6).length;
      const [whole, stretched] = [near(1), near(1 / rope.scaling.factor)];
      ok(whole > 0 && stretched > 0 && whole + stretched < ratios.length, `${whole}, ${stretched} of ${ratios.length}`);
    });
  }

  it("has the values of Llama 3.1's implementation", () => {
    const { rope, headDim } = KNOWN_SHAPES["llama-3.1-8b"];
    const frequencies = ropeFrequencies(rope, headDim);
    equal(frequencies[0], 1);
    // The last pair turns once in 2π · 500000^(126/128) tokens, eight times slower than unscaled.
    ok(Math.abs(frequencies[63]! * 8 * 500_000 ** (126 / 128) - 1) < 1e-6);
    ok(frequencies.every((frequency, i) => i === 0 || frequency < frequencies[i - 1]!));
  });
});
