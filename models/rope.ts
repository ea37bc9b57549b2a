import type { Rope } from "./description.ts";

/**
 * Angles per position of the rotary pairs, `[headDim / 2]`: pair `i` turns by `frequencies[i]` radians per token.
 *
 * @see RoFormer, https://arxiv.org/abs/2104.09864; Llama 3.1's bands as in its reference configuration.
 */
export function ropeFrequencies(rope: Rope, headDim: number): Float32Array {
  return Float32Array.from({ length: headDim / 2 }, (_, pair) => {
    const frequency = rope.theta ** (-2 * pair / headDim);
    const { scaling } = rope;
    switch (scaling?.kind) {
      case undefined:
        return frequency;
      case "linear":
        return frequency / scaling.factor;
      case "llama3": {
        const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings } = scaling;
        const turns = originalMaxPositionEmbeddings * frequency / (2 * Math.PI); // within the original context
        if (turns < lowFreqFactor) return frequency / factor;
        if (turns > highFreqFactor) return frequency;
        const share = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
        return (1 - share) * frequency / factor + share * frequency;
      }
      default:
        return scaling satisfies never;
    }
  });
}
