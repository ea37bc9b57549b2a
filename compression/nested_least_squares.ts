import { type LinearAlgebra, matrix } from "../kernels/matrix.ts";
import type { Floats } from "../models/floats.ts";
import { factorHessian } from "./hessian.ts";

/** What a matrix whose columns are cut should be at all rates together, and by what its errors are weighed. */
export interface NestedProblem {
  /** The weight that is best for all, `[outFeatures, K]`. */
  readonly weight: Floats;
  /** `Σ_l p_l · M_l XᵀX M_l`, `[K, K]`: what an error costs at the mean rate. */
  readonly gram: Floats;
}

/**
 * The least-squares solution for a matrix of which every rate uses a prefix: the Ŵ that minimizes
 *
 *     Σ_l p_l ‖X·M_l·Ŵᵀ − X·Wᵀ‖²
 *
 * where M_l keeps the columns of level l. What is cut is not just left out: the columns that stay take over as much of it as
 * they can tell from their own inputs, as far as that pays over all levels. With weight on the whole model alone it is W.
 *
 * Levels are nested, so that a pair of columns is kept wherever the less kept of the two is, and the normal equations are
 * `Ŵ·A = W·XᵀX·C` with `A_ij = (XᵀX)_ij · min(c_i, c_j)` and C the diagonal of `c_i = Σ_l p_l [l keeps i]`.
 *
 * @param weight W, `[outFeatures, K]`
 * @param gram `XᵀX`, `[K, K]`
 * @param kept c of every column, above 0: the total weight of the levels that keep it.
 * @param dampening See `factorHessian`.
 * @see He et al., https://arxiv.org/abs/1707.06168, for least squares after channels of one width were cut.
 */
export async function nestedLeastSquares(
  algebra: LinearAlgebra,
  weight: Floats,
  { gram, kept, dampening }: { gram: Floats; kept: readonly number[]; dampening: number },
): Promise<NestedProblem> {
  const K = kept.length;
  const rows = weight.length / K;
  const weighed = new Float32Array(K * K);
  const wanted = new Float32Array(K * K);
  for (let i = 0; i < K; i++) {
    for (let j = 0; j < K; j++) {
      const at = i * K + j;
      weighed[at] = gram[at]! * Math.min(kept[i]!, kept[j]!);
      wanted[at] = gram[at]! * kept[j]!;
    }
  }
  if (kept.every((share) => share === kept[0])) return { weight, gram: weighed };
  let trace = 0;
  for (let i = 0; i < K; i++) trace += weighed[i * K + i]!;
  const { inverseFactor, dead } = await factorHessian(algebra, weighed, K, dampening);
  // The same on both sides, so that what needs no change gets none, and what no input says anything of stays as it is.
  for (let i = 0; i < K; i++) wanted[i * K + i]! += dead[i] === 1 ? 1 : dampening * trace / K;
  const inverse = matrix(inverseFactor, K, K);
  const product = () => matrix(new Float32Array(rows * K), rows, K);
  const [right, half, solved] = [product(), product(), product()];
  await algebra.multiply(matrix(weight, rows, K), matrix(wanted, K, K), right);
  await algebra.multiply(right, inverse, half, { transposeB: true });
  await algebra.multiply(half, inverse, solved);
  return { weight: solved.data, gram: weighed };
}
