/**
 * The order in which rows and columns are stored: segment after segment of the prepared rates (architecture D3), where
 * an axis runs inside heads all heads' components of one segment together.
 */

import type { ModelConfig } from "../models/description.ts";
import { headComponents } from "../models/layout.ts";
import type { AttentionPlan, GatedMlpPlan } from "../models/plan.ts";

/** Packed qkv rows in stored order. */
export function storedQkvRows(config: ModelConfig, { chunks }: AttentionPlan): number[] {
  const heads = config.numAttentionHeads + 2 * config.numKeyValueHeads;
  return chunks.flatMap((chunk) => [...headComponents(heads, config.headDim, chunk)]);
}

/** Columns of the output projection in stored order. */
export function storedOutputColumns(config: ModelConfig, { chunks }: AttentionPlan): number[] {
  return chunks.flatMap((chunk) => [...headComponents(config.numAttentionHeads, config.headDim, chunk)]);
}

/** Packed gate and up rows in stored order. */
export function storedGateUpRows({ intermediateSize }: ModelConfig, { chunks }: GatedMlpPlan): number[] {
  return chunks.flatMap(({ start, end }) => {
    const channels = Array.from({ length: end - start }, (_, i) => start + i);
    return [...channels, ...channels.map((channel) => intermediateSize + channel)];
  });
}

/** Undoes an order: element `order[i]` of the result is `i`. */
export function inverseOrder(order: readonly number[]): number[] {
  const inverse = new Array<number>(order.length);
  order.forEach((from, at) => inverse[from] = at);
  return inverse;
}

/** Rows and columns of a symmetric `[n, n]` in another order. */
export function permuteSymmetric(
  matrix: Float32Array<ArrayBuffer>,
  order: readonly number[],
): Float32Array<ArrayBuffer> {
  const n = order.length;
  const permuted = new Float32Array(n * n);
  for (let row = 0; row < n; row++) {
    const from = order[row]! * n;
    for (let column = 0; column < n; column++) permuted[row * n + column] = matrix[from + order[column]!]!;
  }
  return permuted;
}
