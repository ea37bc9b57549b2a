import { type Floats, type LinearAlgebra, matrix } from "../kernels/matrix.ts";

/** Share of the mean diagonal that is added to it: GPTQ's default. */
const DAMPENING = 0.01;

/** What quantizing needs to know about the inputs of a matrix. One serves all matrices with the same input. */
export interface Hessian {
  readonly inFeatures: number;
  /** `XᵀX` as given, `[K, K]`. */
  readonly gram: Float32Array<ArrayBuffer>;
  /** Upper triangular U with `UᵀU = (XᵀX + dampening)⁻¹`, `[K, K]`. */
  readonly inverseFactor: Float32Array<ArrayBuffer>;
  /** 1 for inputs that were never anything but zero: their weights do not matter. */
  readonly dead: Uint8Array<ArrayBuffer>;
}

/**
 * Factors the Gram matrix of a layer's inputs for GPTQ.
 *
 * The factor of the inverse is taken without forming the inverse: if the matrix with rows and columns in reverse order
 * is `LLᵀ`, then `L⁻¹` in reverse order is U. One factorization in float64 instead of two.
 *
 * @param gram `XᵀX`, `[K, K]`, at any scale (summed or averaged over tokens); K inputs.
 * @throws {RangeError} If it is not a Gram matrix: not finite, or, with 1 % of the mean added to the diagonal, not
 * positive definite. There is no second try with more: a matrix that fails in float64 is wrong, not unlucky.
 */
export async function factorHessian(algebra: LinearAlgebra, gram: Floats, inFeatures: number): Promise<Hessian> {
  if (gram.length !== inFeatures * inFeatures) {
    throw new RangeError(`Cannot factor a Hessian of order ${inFeatures}: it has ${gram.length} elements`);
  }
  const factor = Float64Array.from(gram);
  let sum = 0;
  for (let i = 0; i < inFeatures; i++) sum += factor[i * inFeatures + i]!;
  if (!(sum >= 0 && sum < Infinity)) {
    throw new RangeError(`Cannot factor a Hessian of order ${inFeatures}: its trace is ${sum}`);
  }
  const dead = new Uint8Array(inFeatures);
  for (let i = 0; i < inFeatures; i++) {
    const at = i * inFeatures + i;
    if (factor[at] === 0) {
      dead[i] = 1;
      factor[at] = 1;
    } else {
      factor[at]! += DAMPENING * sum / inFeatures;
    }
  }
  // Reversing the elements reverses rows and columns.
  factor.reverse();
  try {
    await algebra.cholesky(factor, inFeatures);
  } catch (cause) {
    // Its pivot counts from the end, so it would mislead.
    throw new RangeError(`Cannot factor a Hessian of order ${inFeatures}: it is not positive semidefinite`, { cause });
  }
  await algebra.invertLower(factor, inFeatures);
  factor.reverse();
  return { inFeatures, gram: Float32Array.from(gram), inverseFactor: Float32Array.from(factor), dead };
}

/** `tr(W · XᵀX · Wᵀ)`: the squared size of W's outputs, summed over what the Hessian was summed over. */
export async function outputEnergy(
  algebra: LinearAlgebra,
  weight: Float32Array<ArrayBuffer>,
  { gram, inFeatures }: Hessian,
): Promise<number> {
  const square = new Float32Array(inFeatures * inFeatures);
  await algebra.gram(matrix(weight, weight.length / inFeatures, inFeatures), matrix(square, inFeatures, inFeatures));
  let energy = 0;
  for (let i = 0; i < square.length; i++) energy += square[i]! * gram[i]!;
  // Where it is all but zero, rounding can make it negative.
  return Math.max(0, energy);
}
