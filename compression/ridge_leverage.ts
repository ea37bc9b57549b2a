import type { FloatsOrDoubles, LinearAlgebra } from "../kernels/matrix.ts";
import { descendingOrder } from "./descending_order.ts";

export interface ScoredOrder {
  /** The channel at each place, most important first. */
  readonly order: number[];
  /** By channel, not by place. */
  readonly scores: Float64Array<ArrayBuffer>;
}

/**
 * Orders channels by ridge leverage, `diag(C·(C + λI)⁻¹)` of their Gram matrix C: how much of a
 * channel the others cannot stand in for (uniql.md §3.3).
 *
 * Leverages crowd just below 1, where differences drown in rounding. So channels are sorted by what they lack to 1,
 * `κ = diag((C + λI)⁻¹)`, smallest first: with `C + λI = LLᵀ`, κ is the squared length of each column of `L⁻¹`.
 *
 * @param gram `[size, size]`, XᵀX of the channels.
 * @param lambda In the scale of the Gram matrix. UniQL's 1 belongs to sums over 2048 tokens.
 * @returns Scores are the leverages `1 − λκ`, in [0, 1).
 * @throws {RangeError} If λ is not above zero, or the matrix is no Gram matrix.
 */
export async function ridgeLeverageOrder(
  algebra: LinearAlgebra,
  { gram, size, lambda }: { gram: FloatsOrDoubles; size: number; lambda: number },
): Promise<ScoredOrder> {
  if (!(lambda > 0 && lambda < Infinity)) {
    throw new RangeError(`Cannot score channels with a ridge of ${lambda}: it must be above zero`);
  }
  const factor = Float64Array.from(gram);
  for (let i = 0; i < size; i++) factor[i * (size + 1)]! += lambda;
  await algebra.cholesky(factor, size);
  await algebra.invertLower(factor, size);
  const kappa = new Float64Array(size);
  for (let row = 0; row < size; row++) {
    for (let channel = 0; channel <= row; channel++) kappa[channel]! += factor[row * size + channel]! ** 2;
  }
  return {
    order: descendingOrder(kappa.map((value) => -value)),
    // For a channel of zeros, rounding can leave a little less than nothing.
    scores: kappa.map((value) => Math.max(0, 1 - lambda * value)),
  };
}

/**
 * Orders MLP channels by the length of all weights that leave with them, their rows of gate and up and their column of
 * down: the group norm that structured magnitude pruning uses. A control; it needs no calibration.
 *
 * @param into Weights that write the channels, `[F, D]` each: gate and up, or up alone.
 * @param down `[D, F]`
 */
export function mlpMagnitudeOrder(
  { into, down }: { into: readonly Float32Array[]; down: Float32Array },
  intermediateSize: number,
): ScoredOrder {
  const squares = new Float64Array(intermediateSize);
  for (const weight of into) {
    const hiddenSize = weight.length / intermediateSize;
    for (let i = 0; i < weight.length; i++) squares[Math.floor(i / hiddenSize)]! += weight[i]! ** 2;
  }
  for (let i = 0; i < down.length; i++) squares[i % intermediateSize]! += down[i]! ** 2;
  const scores = squares.map(Math.sqrt);
  return { order: descendingOrder(scores), scores };
}
