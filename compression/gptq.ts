import { type LinearAlgebra, matrix } from "../kernels/matrix.ts";
import { groupEndsOf, type Int4Codes, int4Scale, nearestCode, ZERO_POINT } from "../models/int4.ts";
import type { Hessian } from "./hessian.ts";
import type { QuantizationJob } from "./quantization_job.ts";
import { searchScale } from "./scale_search.ts";

type Doubles = Float64Array<ArrayBuffer>;

/** Rows that go through the loop over columns together, so that it has independent sums to compute. */
const TILE = 4;

/**
 * GPTQ: columns are rounded in their natural order, and the error of each is made up for by the columns after it.
 *
 * Natural order, because ours are sorted by importance: a cut of the tail then removes only what made up for errors
 * (uniql.md §6.3). The scales of a group are chosen when its first column is reached, from the weights as they are then.
 * Inside a group errors are passed on column by column; the columns after the group get those of the whole group in one
 * product.
 *
 * @see GPTQ, https://arxiv.org/abs/2210.17323, algorithm 1
 */
export async function gptq(
  algebra: LinearAlgebra,
  { weight, outFeatures, inFeatures, groupStarts, hessian, scaleSearch }: QuantizationJob,
): Promise<Int4Codes> {
  const ends = groupEndsOf(groupStarts, inFeatures);
  const { inverseFactor } = hessian;
  const work = withoutDeadColumns(weight, hessian.dead);
  const codes = new Uint8Array(weight.length);
  const scales = new Float16Array(outFeatures * ends.length);
  for (let group = 0; group < ends.length; group++) {
    const start = groupStarts[group]!;
    const end = ends[group]!;
    const columns = groupColumns(hessian, start, end - start);
    const errors = new Float32Array(outFeatures * columns.count);
    for (let row = 0; row < outFeatures; row += TILE) {
      const rows = Math.min(TILE, outFeatures - row);
      for (let r = 0; r < TILE; r++) {
        const from = (row + r) * inFeatures + start;
        loadRow(work, from, r < rows ? columns.count : 0, columns, r);
        columns.scales[r] = chooseScale(columns, r, scaleSearch);
      }
      roundColumns(columns);
      for (let r = 0; r < rows; r++) {
        scales[(row + r) * ends.length + group] = columns.scales[r]!;
        storeRow(columns, r, codes, (row + r) * inFeatures + start, errors, (row + r) * columns.count);
      }
    }
    if (end === inFeatures) break;
    await algebra.multiply(
      matrix(errors, outFeatures, columns.count),
      matrix(inverseFactor, columns.count, inFeatures - end, { offset: start * inFeatures + end, stride: inFeatures }),
      matrix(work, outFeatures, inFeatures - end, { offset: end, stride: inFeatures }),
      { alpha: -1, beta: 1 },
    );
  }
  return { outFeatures, inFeatures, groupStarts, codes, scales: new Uint16Array(scales.buffer) };
}

/** A copy of `[outFeatures, inFeatures]` with zeros where an input is never anything else. */
export function withoutDeadColumns(weight: Float32Array<ArrayBuffer>, dead: Uint8Array): Float32Array<ArrayBuffer> {
  const work = weight.slice();
  dead.forEach((isDead, column) => {
    if (isDead) { for (let at = column; at < work.length; at += dead.length) work[at] = 0; }
  });
  return work;
}

/** The columns of a group, with room for a tile of rows. */
interface GroupColumns {
  readonly count: number;
  /** The group's block of U, transposed: `[count, count]`, so that the sum for one column reads along a row. */
  readonly factor: Doubles;
  /** What an error costs, per column. */
  readonly importance: Doubles;
  /** `[TILE]` arrays of `count`: a row's weights, made up for the errors of the groups before. */
  readonly weights: readonly Doubles[];
  /** `[count, TILE]`: error over the diagonal of U. */
  readonly errors: Doubles;
  /** `[count, TILE]`: codes less the zero point. */
  readonly codes: Doubles;
  readonly scales: Doubles;
}

function groupColumns({ inverseFactor, gram, inFeatures }: Hessian, start: number, count: number) {
  const factor = new Float64Array(count * count);
  const importance = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    for (let p = 0; p <= i; p++) factor[i * count + p] = inverseFactor[(start + p) * inFeatures + start + i]!;
    importance[i] = gram[(start + i) * (inFeatures + 1)]!;
  }
  return {
    count,
    factor,
    importance,
    weights: Array.from({ length: TILE }, () => new Float64Array(count)),
    errors: new Float64Array(count * TILE),
    codes: new Float64Array(count * TILE),
    scales: new Float64Array(TILE),
  } satisfies GroupColumns;
}

/** Copies a row's weights of the group; of none where the matrix has no more rows. */
function loadRow(
  work: Float32Array,
  from: number,
  available: number,
  { weights, count }: GroupColumns,
  r: number,
): void {
  const row = weights[r]!;
  for (let i = 0; i < count; i++) row[i] = i < available ? work[from + i]! : 0;
}

function chooseScale({ weights, importance, count }: GroupColumns, r: number, scaleSearch: boolean): number {
  const row = weights[r]!;
  if (scaleSearch) return searchScale(row, importance, count);
  let greatest = 0;
  for (let i = 0; i < count; i++) {
    const magnitude = Math.abs(row[i]!);
    if (magnitude > greatest) greatest = magnitude;
  }
  return int4Scale(greatest);
}

/** The loop over columns, for a tile of rows. Unrolled by hand: it is where the time goes that products do not take. */
function roundColumns({ count, factor, weights, errors, codes, scales }: GroupColumns): void {
  const [weights0, weights1, weights2, weights3] = weights as [Doubles, Doubles, Doubles, Doubles];
  const scale0 = scales[0]!, scale1 = scales[1]!, scale2 = scales[2]!, scale3 = scales[3]!;
  const inverse0 = 1 / scale0, inverse1 = 1 / scale1, inverse2 = 1 / scale2, inverse3 = 1 / scale3;
  for (let i = 0; i < count; i++) {
    const base = i * count;
    let w0 = weights0[i]!, w1 = weights1[i]!, w2 = weights2[i]!, w3 = weights3[i]!;
    for (let p = 0, e = 0; p < i; p++, e += TILE) {
      const u = factor[base + p]!;
      w0 -= errors[e]! * u;
      w1 -= errors[e + 1]! * u;
      w2 -= errors[e + 2]! * u;
      w3 -= errors[e + 3]! * u;
    }
    const c0 = nearestCode(w0 * inverse0);
    const c1 = nearestCode(w1 * inverse1);
    const c2 = nearestCode(w2 * inverse2);
    const c3 = nearestCode(w3 * inverse3);
    const perDiagonal = 1 / factor[base + i]!;
    const at = i * TILE;
    errors[at] = (w0 - c0 * scale0) * perDiagonal;
    errors[at + 1] = (w1 - c1 * scale1) * perDiagonal;
    errors[at + 2] = (w2 - c2 * scale2) * perDiagonal;
    errors[at + 3] = (w3 - c3 * scale3) * perDiagonal;
    codes[at] = c0;
    codes[at + 1] = c1;
    codes[at + 2] = c2;
    codes[at + 3] = c3;
  }
}

function storeRow(
  { count, codes, errors }: GroupColumns,
  r: number,
  outCodes: Uint8Array,
  codesAt: number,
  outErrors: Float32Array,
  errorsAt: number,
): void {
  for (let i = 0; i < count; i++) {
    outCodes[codesAt + i] = codes[i * TILE + r]! + ZERO_POINT;
    outErrors[errorsAt + i] = errors[i * TILE + r]!;
  }
}
