import { type FloatsOrDoubles, type LinearAlgebra, matrix, type ProductOptions } from "../kernels/matrix.ts";
import type { ModelConfig } from "../models/description.ts";
import { type AttentionTensors, foldValueBias } from "../models/layout.ts";
import { descendingOrder, randomOrder } from "./descending_order.ts";

type Doubles = Float64Array<ArrayBuffer>;
type HeadShape = Pick<ModelConfig, "hiddenSize" | "numAttentionHeads" | "numKeyValueHeads" | "headDim">;

/**
 * Singular values below this share of the greatest count as this share. Directions so small carry nothing; the floor
 * only keeps a change of basis invertible, and it stays exact.
 */
const SINGULAR_FLOOR = 1e-6;

/** A change of basis T of one head's value space: `V' = V·T`, `O' = T⁻¹·O`, so that `V'·O' = V·O`. */
export interface ValueBasis {
  /** T, `[K, K]`. */
  readonly basis: Doubles;
  /** T⁻¹, `[K, K]`. */
  readonly inverse: Doubles;
  /** What each new value channel carries over calibration: the squares of the singular values, descending. */
  readonly energies: Doubles;
}

/**
 * Finds, for each key/value head, the basis in which the first channels carry most (uniql.md §3.5).
 *
 * With several query heads to a key/value head it is the rotation to the principal axes of the values. With one, the
 * output projection is taken into account: the first k channels are then the best approximation of rank k to what the
 * head adds to the residual stream, for every k at once. Singular values go to the value side, where each channel's
 * block scales absorb them; on the output side they would vary inside a block.
 *
 * @param valueGram `[G, K, K]`: `(X·V)ᵀ(X·V)` per key/value head, at any scale, without the bias of the values.
 */
export async function valueOutputBases(
  algebra: LinearAlgebra,
  { output }: Pick<AttentionTensors, "output">,
  valueGram: FloatsOrDoubles,
  shape: HeadShape,
): Promise<ValueBasis[]> {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = shape;
  const bases: ValueBasis[] = [];
  for (let head = 0; head < G; head++) {
    const gram = Float64Array.from(valueGram.subarray(head * K * K, (head + 1) * K * K));
    bases.push(
      H === G
        ? await twoStageBasis(algebra, gram, await outputGram(algebra, output, head, shape), K)
        : await principalAxes(algebra, gram, K),
    );
  }
  return bases;
}

async function principalAxes(algebra: LinearAlgebra, gram: Doubles, K: number): Promise<ValueBasis> {
  const { values, vectors } = await algebra.symmetricEigen(gram, K);
  return { basis: vectors, inverse: transpose(vectors, K), energies: values };
}

/**
 * The best low-rank factors of `C^½·V·O`, from K × K matrices alone. With `G = VᵀCV = Z₁Σ₁²Z₁ᵀ` and `B = Σ₁Z₁ᵀO`, of
 * which only `BBᵀ = U₂Σ₂²U₂ᵀ` is needed, `T = Z₁Σ₁⁻¹U₂Σ₂` and `T⁻¹ = Σ₂⁻¹U₂ᵀΣ₁Z₁ᵀ`.
 *
 * @param outputGram `O·Oᵀ`, `[K, K]`.
 */
async function twoStageBasis(
  algebra: LinearAlgebra,
  gram: Doubles,
  outputGram: Doubles,
  K: number,
): Promise<ValueBasis> {
  const first = await algebra.symmetricEigen(gram, K);
  const sigma1 = singularValues(first.values);
  const z1 = first.vectors;
  const scaledZ1 = z1.map((value, at) => value * sigma1[at % K]!);
  const square = await product(
    algebra,
    await product(algebra, scaledZ1, outputGram, K, { transposeA: true }),
    scaledZ1,
    K,
  );
  const second = await algebra.symmetricEigen(square, K);
  const sigma2 = singularValues(second.values);
  const u2 = second.vectors;
  const basis = await product(
    algebra,
    z1.map((value, at) => value / sigma1[at % K]!),
    u2.map((value, at) => value * sigma2[at % K]!),
    K,
  );
  const inverse = await product(algebra, u2.map((value, at) => value / sigma2[at % K]!), scaledZ1, K, {
    transposeA: true,
    transposeB: true,
  });
  return { basis, inverse, energies: second.values };
}

/** Square roots of eigenvalues, from the floor up; ones if there is nothing at all. */
function singularValues(eigenvalues: Doubles): Doubles {
  const greatest = Math.sqrt(Math.max(0, eigenvalues[0]!));
  if (greatest === 0) return new Float64Array(eigenvalues.length).fill(1);
  return eigenvalues.map((value) => Math.max(Math.sqrt(Math.max(0, value)), SINGULAR_FLOOR * greatest));
}

/** `O·Oᵀ` of one query head, whose columns of `[D, H·K]` are Oᵀ. */
async function outputGram(
  algebra: LinearAlgebra,
  output: FloatsOrDoubles,
  head: number,
  { hiddenSize: D, numAttentionHeads: H, headDim: K }: HeadShape,
): Promise<Doubles> {
  const gram = new Float64Array(K * K);
  await algebra.gram(matrix(headColumns(output, head, D, H, K), D, K), matrix(gram, K, K));
  return gram;
}

/**
 * The tensors in new bases: rows of the value projection and columns of the output projection. The same function of the
 * input, rounded once to float32.
 *
 * A bias of the values becomes one of the outputs, since attention weights sum to one; it must not be cut with the
 * values.
 */
export async function changeValueBases(
  algebra: LinearAlgebra,
  tensors: AttentionTensors,
  bases: readonly ValueBasis[],
  shape: HeadShape,
): Promise<AttentionTensors> {
  const { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = shape;
  const value = new Float32Array(tensors.value.length);
  const output = new Float32Array(tensors.output.length);
  const rotated = new Float64Array(K * D);
  for (let group = 0; group < G; group++) {
    const rows = Float64Array.from(tensors.value.subarray(group * K * D, (group + 1) * K * D));
    const { basis, inverse } = bases[group]!;
    await algebra.multiply(matrix(basis, K, K), matrix(rows, K, D), matrix(rotated, K, D), { transposeA: true });
    value.set(rotated, group * K * D);
    for (let head = group * H / G; head < (group + 1) * H / G; head++) {
      const columns = headColumns(tensors.output, head, D, H, K);
      await algebra.multiply(matrix(columns, D, K), matrix(inverse, K, K), matrix(rotated, D, K), { transposeB: true });
      for (let row = 0; row < D; row++) output.set(rotated.subarray(row * K, (row + 1) * K), (row * H + head) * K);
    }
  }
  return { ...foldValueBias(shape, tensors), value, output };
}

/**
 * The tensors with the value channels of each key/value head in the given order, bit by bit: what controls do instead of
 * a rotation. A bias of the values becomes one of the outputs.
 */
export function permuteValues(
  tensors: AttentionTensors,
  orders: readonly (readonly number[])[],
  shape: HeadShape,
): AttentionTensors {
  const { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = shape;
  const value = new Float32Array(tensors.value.length);
  const output = new Float32Array(tensors.output.length);
  orders.forEach((order, group) =>
    order.forEach((from, to) => {
      const row = (group * K + from) * D;
      value.set(tensors.value.subarray(row, row + D), (group * K + to) * D);
      for (let head = group * H / G; head < (group + 1) * H / G; head++) {
        for (let i = 0; i < D; i++) output[(i * H + head) * K + to] = tensors.output[(i * H + head) * K + from]!;
      }
    })
  );
  return { ...foldValueBias(shape, tensors), value, output };
}

/** Value channels of each key/value head by the product of the lengths of their weights in and out: a control. */
export function valueMagnitudeOrder(
  { value, output }: Pick<AttentionTensors, "value" | "output">,
  { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K }: HeadShape,
): number[][] {
  const into = new Float64Array(G * K);
  for (let at = 0; at < value.length; at++) into[Math.floor(at / D)]! += value[at]! ** 2;
  const out = new Float64Array(G * K);
  for (let at = 0; at < output.length; at++) {
    const column = at % (H * K);
    const group = Math.floor(column / K / (H / G));
    out[group * K + column % K]! += output[at]! ** 2;
  }
  const scores = into.map((square, channel) => Math.sqrt(square * out[channel]!));
  return Array.from({ length: G }, (_, group) => descendingOrder(scores.subarray(group * K, (group + 1) * K)));
}

/** Shuffled value channels for each key/value head: a control. @param random Uniform in [0, 1). */
export function valueRandomOrder(
  { numKeyValueHeads, headDim }: Pick<HeadShape, "numKeyValueHeads" | "headDim">,
  random: () => number,
): number[][] {
  return Array.from({ length: numKeyValueHeads }, () => randomOrder(headDim, random));
}

/** One head's columns of `[D, H·K]` as `[D, K]`. */
function headColumns(output: FloatsOrDoubles, head: number, D: number, H: number, K: number): Doubles {
  const columns = new Float64Array(D * K);
  for (let row = 0; row < D; row++) {
    const from = (row * H + head) * K;
    columns.set(output.subarray(from, from + K), row * K);
  }
  return columns;
}

/** `op(A)·op(B)` of square matrices. */
async function product(
  algebra: LinearAlgebra,
  a: Doubles,
  b: Doubles,
  K: number,
  transposes: Pick<ProductOptions, "transposeA" | "transposeB"> = {},
): Promise<Doubles> {
  const c = new Float64Array(K * K);
  await algebra.multiply(matrix(a, K, K), matrix(b, K, K), matrix(c, K, K), transposes);
  return c;
}

function transpose(square: Doubles, n: number): Doubles {
  return square.map((_, at) => square[at % n * n + Math.floor(at / n)]!);
}
