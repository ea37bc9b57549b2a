/**
 * The number format of our matrices, as `MatMulNBits` reads it: symmetric int4 with one float16 scale per row and block
 * of input columns, `weight ≈ (code − 8) · scale` with codes 0 to 15.
 *
 * A matrix is quantized in *groups* of columns, and stored in *blocks*. They differ only where the columns of one matrix
 * are stored in several segments, so that what a rate drops is apart from what it keeps: blocks start anew in each
 * segment, and the last of a segment is filled up, so the group that belongs to it is shorter. See uniql.md §6.1.
 */

import { float32FromFloat16 } from "./float16.ts";

/** The code of weight 0; also what fills a block whose columns end early. */
export const ZERO_POINT = 8;

/** Columns that share a scale. */
export type BlockSize = 32 | 64 | 128;

/** A quantized matrix before packing. */
export interface Int4Codes {
  readonly outFeatures: number;
  readonly inFeatures: number;
  /** First column of each group, ascending from 0. */
  readonly groupStarts: readonly number[];
  /** `[outFeatures, inFeatures]`, 0 to 15. */
  readonly codes: Uint8Array<ArrayBuffer>;
  /** `[outFeatures, groups]`, float16 bits; finite, not zero, and negative where that turns the range of the codes. */
  readonly scales: Uint16Array<ArrayBuffer>;
}

/** A matrix or a segment of one, as it is stored. */
export interface PackedInt4 {
  /** `[outFeatures, ceil(inFeatures / blockSize), blockSize / 2]`, the earlier column in the low nibble. */
  readonly codes: Uint8Array<ArrayBuffer>;
  /** `[outFeatures, ceil(inFeatures / blockSize)]`, float16 bits. */
  readonly scales: Uint16Array<ArrayBuffer>;
}

export interface Int4Shape {
  readonly outFeatures: number;
  readonly inFeatures: number;
  readonly blockSize: BlockSize;
}

/** Rows or columns [start, end). */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Where groups begin when columns are stored in segments of the given widths.
 *
 * @example A segment that is no multiple of the block ends with a shorter group
 * ```ts
 * import { deepEqual } from "node:assert/strict";
 * deepEqual(groupStartsOf([48, 64], 32), [0, 32, 48, 80]);
 * ```
 */
export function groupStartsOf(segmentWidths: readonly number[], blockSize: BlockSize): number[] {
  const starts: number[] = [];
  let start = 0;
  for (const width of segmentWidths) {
    for (let offset = 0; offset < width; offset += blockSize) starts.push(start + offset);
    start += width;
  }
  return starts;
}

/** End of each group. @throws {RangeError} If the groups do not begin at 0, ascend, and lie inside the columns. */
export function groupEndsOf(groupStarts: readonly number[], inFeatures: number): number[] {
  const ends = [...groupStarts.slice(1), inFeatures];
  if (groupStarts[0] !== 0 || groupStarts.some((start, group) => !(start < ends[group]!))) {
    throw new RangeError(`Cannot quantize ${inFeatures} columns in groups that start at ${groupStarts.join(", ")}`);
  }
  return ends;
}

/** Adding and taking this away rounds a float64 below 2⁵¹ to an integer, ties to even; much faster than `Math.round`. */
const ROUNDER = 2 ** 52 + 2 ** 51;

/** The nearest code to a weight over its scale, less the zero point: −8 to 7, ties to even. */
export function nearestCode(value: number): number {
  const code = value + ROUNDER - ROUNDER;
  return code > 7 ? 7 : code < -8 ? -8 : code;
}

const half = new Float16Array(1);
const halfBits = new Uint16Array(half.buffer);

/**
 * The least float16 that is not below `2 · greatest / 15`, so that no weight lies more than 7.5 scales from zero; 1 for
 * a group of zeros.
 *
 * @param greatest Greatest magnitude in the group, finite.
 * @throws {RangeError} If the scale is beyond float16.
 */
export function int4Scale(greatest: number): number {
  if (greatest === 0) return 1;
  const scale = 2 * greatest / 15;
  half[0] = scale;
  // Bits of positive halves ascend with their values.
  if (half[0] < scale) halfBits[0]!++;
  const rounded = half[0]!;
  if (!(rounded < Infinity)) throw new RangeError(`Cannot quantize a weight of magnitude ${greatest}: too large`);
  return rounded;
}

/**
 * Rounds every weight to the nearest code, ties to even.
 *
 * @param weight `[outFeatures, inFeatures]`.
 * @throws {RangeError} If a weight is not finite or too large for float16 scales; the message names its row.
 */
export function roundToNearest(
  weight: Float32Array,
  { outFeatures, inFeatures, groupStarts }: Pick<Int4Codes, "outFeatures" | "inFeatures" | "groupStarts">,
): Int4Codes {
  const ends = groupEndsOf(groupStarts, inFeatures);
  const codes = new Uint8Array(outFeatures * inFeatures);
  const scales = new Float16Array(outFeatures * groupStarts.length);
  for (let row = 0, at = 0; row < outFeatures; row++) {
    for (let group = 0; group < ends.length; group++) {
      const from = row * inFeatures + groupStarts[group]!;
      const to = row * inFeatures + ends[group]!;
      const scale = int4Scale(greatestMagnitude(weight, from, to, row));
      const inverse = 1 / scale;
      for (let i = from; i < to; i++) codes[i] = nearestCode(weight[i]! * inverse) + ZERO_POINT;
      scales[at++] = scale;
    }
  }
  return { outFeatures, inFeatures, groupStarts, codes, scales: new Uint16Array(scales.buffer) };
}

function greatestMagnitude(weight: Float32Array, from: number, to: number, row: number): number {
  let greatest = 0;
  let finite = true;
  for (let i = from; i < to; i++) {
    const magnitude = Math.abs(weight[i]!);
    if (magnitude > greatest) greatest = magnitude;
    // Not-a-number compares as false with everything.
    if (!(magnitude < Infinity)) finite = false;
  }
  if (!finite) throw new RangeError(`Cannot quantize row ${row}: it holds a weight that is not finite`);
  return greatest;
}

/** What the codes stand for: `[outFeatures, inFeatures]`, exact. */
export function reconstruct(
  { outFeatures, inFeatures, groupStarts, codes, scales }: Int4Codes,
): Float32Array<ArrayBuffer> {
  const ends = groupEndsOf(groupStarts, inFeatures);
  const values = float32FromFloat16(scales);
  const weight = new Float32Array(codes.length);
  for (let row = 0, at = 0; row < outFeatures; row++) {
    for (let group = 0; group < ends.length; group++) {
      const scale = values[at++]!;
      const to = row * inFeatures + ends[group]!;
      for (let i = row * inFeatures + groupStarts[group]!; i < to; i++) weight[i] = (codes[i]! - ZERO_POINT) * scale;
    }
  }
  return weight;
}

/**
 * Packs a matrix, or the part of it that one segment stores.
 *
 * @param rows Default: all.
 * @param columns Default: all.
 * @throws {RangeError} If the groups inside `columns` are not the blocks of such a segment.
 */
export function packInt4(
  quantized: Int4Codes,
  { blockSize, rows = { start: 0, end: quantized.outFeatures }, columns = { start: 0, end: quantized.inFeatures } }: {
    blockSize: BlockSize;
    rows?: Span;
    columns?: Span;
  },
): PackedInt4 {
  const { inFeatures, groupStarts } = quantized;
  const width = columns.end - columns.start;
  const firstGroup = groupStarts.indexOf(columns.start);
  const wanted = groupStartsOf([width], blockSize).map((start) => start + columns.start);
  const found = groupStarts.filter((start) => start >= columns.start && start < columns.end);
  const endsWithGroup = columns.end === inFeatures || groupStarts.includes(columns.end);
  if (`${wanted}` !== `${found}` || !endsWithGroup || width < 1) {
    throw new RangeError(
      `Cannot pack columns ${columns.start} to ${columns.end} in blocks of ${blockSize}: their groups start at ${found}`,
    );
  }
  const blocks = wanted.length;
  const count = rows.end - rows.start;
  const codes = new Uint8Array(count * blocks * blockSize / 2).fill(ZERO_POINT | ZERO_POINT << 4);
  const scales = new Uint16Array(count * blocks);
  for (let row = 0; row < count; row++) {
    const from = (rows.start + row) * inFeatures + columns.start;
    const to = row * blocks * blockSize / 2;
    for (let column = 0; column < width; column += 2) {
      const high = column + 1 < width ? quantized.codes[from + column + 1]! : ZERO_POINT;
      codes[to + column / 2] = quantized.codes[from + column]! | high << 4;
    }
    const firstScale = (rows.start + row) * groupStarts.length + firstGroup;
    scales.set(quantized.scales.subarray(firstScale, firstScale + blocks), row * blocks);
  }
  return { codes, scales };
}

/** The codes without what fills the last block: `[outFeatures, inFeatures]`. */
export function unpackInt4(
  packed: Uint8Array,
  { outFeatures, inFeatures, blockSize }: Int4Shape,
): Uint8Array<ArrayBuffer> {
  const rowBytes = Math.ceil(inFeatures / blockSize) * blockSize / 2;
  if (packed.length !== outFeatures * rowBytes) {
    throw new RangeError(
      `Cannot unpack [${outFeatures}, ${inFeatures}] in blocks of ${blockSize} from ${packed.length} bytes: ` +
        `${outFeatures * rowBytes} are needed`,
    );
  }
  const codes = new Uint8Array(outFeatures * inFeatures);
  for (let row = 0, at = 0; row < outFeatures; row++) {
    for (let column = 0; column < inFeatures; column++) {
      codes[at++] = packed[row * rowBytes + (column >> 1)]! >> (column % 2 * 4) & 15;
    }
  }
  return codes;
}

/** What packed codes stand for: `[outFeatures, inFeatures]`, exact. */
export function dequantizeInt4({ codes, scales }: PackedInt4, shape: Int4Shape): Float32Array<ArrayBuffer> {
  const { outFeatures, inFeatures, blockSize } = shape;
  const groupStarts = groupStartsOf([inFeatures], blockSize);
  return reconstruct({ outFeatures, inFeatures, groupStarts, codes: unpackInt4(codes, shape), scales });
}
