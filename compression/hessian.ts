import { type FloatsOrDoubles, type LinearAlgebra, matrix } from "../kernels/matrix.ts";
import type { Span } from "../models/int4.ts";

/** GPTQ's default. */
const DAMPENING = 0.01;

/**
 * How much to dampen the Gram matrix of a matrix's inputs, as a share of its mean diagonal.
 *
 * The more inputs there are for the tokens that were seen, the less it says about other tokens: above all, its smallest
 * directions look smaller than they are. (SmolLM2-135M with 32 windows of 512 tokens, single matrices, errors on other
 * text: 0.5 to 3 % less than with 0.01 everywhere; with ten times as much they are greater again where inputs are few.)
 */
export function dampeningFor(inFeatures: number, tokens: number): number {
  return Math.max(DAMPENING, inFeatures / tokens);
}

/** What quantizing needs to know about the inputs of a matrix. One serves all matrices with the same input. */
export interface Hessian {
  readonly inFeatures: number;
  /** `XᵀX` as given, `[K, K]`. */
  readonly gram: Float32Array<ArrayBuffer>;
  /** Upper triangular R with `RRᵀ = XᵀX + dampening`, `[K, K]`. */
  readonly factor: Float32Array<ArrayBuffer>;
  /** Upper triangular `U = R⁻¹`: `UᵀU = (XᵀX + dampening)⁻¹`, `[K, K]`. */
  readonly inverseFactor: Float32Array<ArrayBuffer>;
  /** 1 for inputs that were never anything but zero: their weights do not matter. */
  readonly dead: Uint8Array<ArrayBuffer>;
}

/**
 * Factors the Gram matrix of a layer's inputs for GPTQ.
 *
 * The factor of the inverse is taken without forming the inverse: if the matrix with rows and columns in reverse order
 * is `LLᵀ`, then L in reverse order is R and `L⁻¹` in reverse order is U. One factorization in float64 instead of two.
 *
 * @param gram `XᵀX`, `[K, K]`, at any scale (summed or averaged over tokens); K inputs.
 * @param dampening Share of the mean diagonal that is added to it.
 * @throws {RangeError} If it is not a Gram matrix: not finite, or, dampened, not positive definite. There is no second try with more: a matrix that fails in float64 is wrong, not unlucky.
 */
export async function factorHessian(
  algebra: LinearAlgebra,
  gram: FloatsOrDoubles,
  inFeatures: number,
  dampening = DAMPENING,
): Promise<Hessian> {
  if (gram.length !== inFeatures * inFeatures) {
    throw new RangeError(`Cannot factor a Hessian of order ${inFeatures}: it has ${gram.length} elements`);
  }
  const reversed = Float64Array.from(gram);
  let sum = 0;
  for (let i = 0; i < inFeatures; i++) sum += reversed[i * inFeatures + i]!;
  if (!(sum >= 0 && sum < Infinity)) {
    throw new RangeError(`Cannot factor a Hessian of order ${inFeatures}: its trace is ${sum}`);
  }
  const dead = new Uint8Array(inFeatures);
  for (let i = 0; i < inFeatures; i++) {
    const at = i * inFeatures + i;
    if (reversed[at] === 0) {
      dead[i] = 1;
      reversed[at] = 1;
    } else {
      reversed[at]! += dampening * sum / inFeatures;
    }
  }
  // Reversing the elements reverses rows and columns.
  reversed.reverse();
  try {
    await algebra.cholesky(reversed, inFeatures);
  } catch (cause) {
    // Its pivot counts from the end, so it would mislead.
    throw new RangeError(`Cannot factor a Hessian of order ${inFeatures}: it is not positive semidefinite`, { cause });
  }
  const factor = Float32Array.from(reversed).reverse();
  await algebra.invertLower(reversed, inFeatures);
  const inverseFactor = Float32Array.from(reversed).reverse();
  return { inFeatures, gram: Float32Array.from(gram), factor, inverseFactor, dead };
}

/**
 * What is left to a span of inputs once those before it are settled and those after it may still make up for anything:
 * the Schur complement of the dampened matrix, whose factors are blocks of the whole's.
 */
export function hessianOfSpan(hessian: Hessian, { start, end }: Span): Hessian {
  const { inFeatures, gram, factor, inverseFactor, dead } = hessian;
  if (end - start === inFeatures) return hessian;
  const block = (whole: Float32Array<ArrayBuffer>) => diagonalBlock(whole, inFeatures, { start, end });
  return {
    inFeatures: end - start,
    gram: block(gram),
    factor: block(factor),
    inverseFactor: block(inverseFactor),
    dead: dead.slice(start, end),
  };
}

function diagonalBlock(
  matrix: Float32Array<ArrayBuffer>,
  size: number,
  { start, end }: Span,
): Float32Array<ArrayBuffer> {
  const count = end - start;
  const block = new Float32Array(count * count);
  for (let row = 0; row < count; row++) {
    const from = (start + row) * size + start;
    block.set(matrix.subarray(from, from + count), row * count);
  }
  return block;
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
