import type { ModelConfig } from "../models/description.ts";
import type { Floats } from "../models/floats.ts";
import type { Chunk } from "../models/widths.ts";
import { hadamardRotation, supportsHadamard } from "./hadamard.ts";

/** The projections of an attention block that write and read values, packed. */
interface ValueWeights {
  /** `[(H + 2G)·K, D]` */
  readonly qkv: Floats;
  /** `[D, H·K]` */
  readonly output: Floats;
}

/**
 * Rotates the components of every value head by a Hadamard matrix inside each chunk, so that what they carry is spread
 * evenly over it: attention mixes tokens, not components, and no level cuts a chunk. Errors of the output projections of
 * SmolLM2-135M, beside equal columns, are 2 to 8 % less (on text that calibration did not see).
 *
 * A chunk of which no Hadamard matrix has the width stays as it is.
 */
export function spreadValues(
  { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K }: ModelConfig,
  chunks: readonly Chunk[],
  { qkv, output }: ValueWeights,
): ValueWeights {
  const spread = { qkv: qkv.slice(), output: output.slice() };
  for (const { start, end } of chunks) {
    const width = end - start;
    if (!supportsHadamard(width)) continue;
    const rotate = hadamardRotation(width);
    for (let at = start; at < spread.output.length; at += K) rotate(spread.output.subarray(at, at + width));
    const components = new Float32Array(width);
    for (let head = H + G; head < H + 2 * G; head++) {
      const from = (head * K + start) * D;
      for (let column = 0; column < D; column++) {
        for (let i = 0; i < width; i++) components[i] = spread.qkv[from + i * D + column]!;
        rotate(components);
        for (let i = 0; i < width; i++) spread.qkv[from + i * D + column] = components[i]!;
      }
    }
  }
  return spread;
}
