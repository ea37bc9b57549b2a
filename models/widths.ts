/**
 * Kept sizes: the one place where a pruning rate becomes a number of channels.
 *
 * Sizes are always computed from the full width, so that any two rates agree on what they share, and a narrower variant
 * is a prefix of a wider one (uniql.md §2.3).
 */

import type { ModelConfig } from "./description.ts";

/** The prepared pruning rates, by level. Level 0 is the whole model. */
export const PRUNING_RATES: readonly number[] = [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35];

/** Kept sizes of each kind of prunable axis are multiples of these, except at the full width. */
export interface Quanta {
  /** Channels of an MLP. A multiple of the quantization block, so that no block is cut. */
  readonly mlp: number;
  /** Components of a head, hence twice the rotary pairs. */
  readonly head: number;
  /** Channels of a Mamba head. */
  readonly mambaHead: number;
  /** States of a Mamba group. */
  readonly mambaState: number;
}

/**
 * The quanta of uniql.md §2.3 (128 channels, 16 of 128 head components, 2 of 64 Mamba channels, 16 of 128 states) scaled
 * to a model.
 *
 * Attention kernels want head sizes that are multiples of 8, so a head of 64 is cut in eighths and one of 16 in halves;
 * a head of 8 stays whole. Int4 products read rows that are multiples of 128 long fastest (2048 × 384 takes 31 µs,
 * 2048 × 416 takes 43; ONNX Runtime 1.30, AVX-512), but a narrow MLP needs finer steps to come near its rates.
 *
 * @param blockSize Channels that share a quantization scale; a power of two up to 128.
 */
export function quantaFor(
  { headDim, intermediateSize, mamba, blockSize }:
    & Pick<ModelConfig, "headDim" | "intermediateSize" | "mamba">
    & { blockSize: number },
): Quanta {
  let mlp = 128;
  while (mlp > blockSize && intermediateSize / mlp < MIN_MLP_STEPS) mlp /= 2;
  let mambaHead = 2;
  let mambaState = 2;
  if (mamba !== undefined) {
    mambaHead = Math.max(2, 2 * Math.floor(mamba.headDim / 64));
    // A step adds these columns of every head to the output projection: a block of them at least, if that leaves steps.
    while (mamba.numHeads * mambaHead < blockSize && 8 * mambaHead <= mamba.headDim) mambaHead *= 2;
    mambaState = Math.max(2, 2 * Math.floor(mamba.stateSize / 16));
  }
  return { mlp, head: Math.max(8, Math.floor(headDim / 64) * 8), mambaHead, mambaState };
}

/** Steps into which an MLP can be cut at least, if its blocks allow: 2.5 % each. */
const MIN_MLP_STEPS = 40;

/**
 * Channels that are kept of `fullWidth` when the share `pruningRate` is removed.
 *
 * Ties round to even, as in the reference implementation. At least one quantum is kept, and rate 0 keeps everything
 * whether or not `quantum` divides it.
 *
 * @param pruningRate In [0, 1).
 */
export function keptWidth(fullWidth: number, pruningRate: number, quantum: number): number {
  if (!(pruningRate >= 0 && pruningRate < 1)) {
    throw new RangeError(`Cannot keep channels at pruning rate ${pruningRate}: it must be in [0, 1)`);
  }
  if (pruningRate === 0) return fullWidth;
  return Math.min(fullWidth, Math.max(1, roundHalfToEven(fullWidth * (1 - pruningRate) / quantum)) * quantum);
}

/** A run of channels that the same levels keep. */
export interface Chunk {
  /** First channel. */
  readonly start: number;
  /** One past the last channel. */
  readonly end: number;
  /** The narrowest level that keeps it; so do all wider ones, 0 to `level`. */
  readonly level: number;
}

/**
 * Cuts an axis at the widths that are served, most important channels first. Levels of equal width share a chunk.
 *
 * @param widths Kept channels per level, not increasing; `widths[0]` is the full width.
 * @throws {RangeError} If widths grow with the level, or one is not a positive integer.
 *
 * @example
 * ```ts
 * import { deepEqual } from "node:assert/strict";
 * deepEqual(chunksOf([96, 64, 64]), [{ start: 0, end: 64, level: 2 }, { start: 64, end: 96, level: 0 }]);
 * ```
 */
export function chunksOf(widths: readonly number[]): Chunk[] {
  const chunks: Chunk[] = [];
  let start = 0;
  for (let level = widths.length - 1; level >= 0; level--) {
    const end = widths[level]!;
    if (!Number.isInteger(end) || end < 1 || end < start) {
      throw new RangeError(`Cannot cut an axis at widths ${widths.join(", ")}: they must be positive and nested`);
    }
    if (end > start) chunks.push({ start, end, level });
    start = end;
  }
  return chunks;
}

/** Number of channels of a chunk. */
export function chunkWidth({ start, end }: Chunk): number {
  return end - start;
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const fraction = value - floor;
  if (fraction < 0.5) return floor;
  if (fraction > 0.5) return floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}
