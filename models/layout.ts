/**
 * From a checkpoint's tensors to the order in which we store and multiply them.
 *
 * Letters in shapes: D hidden, F intermediate, H query heads, G key/value heads, K head dim.
 */

import type { ModelConfig } from "./description.ts";

type Floats = Float32Array<ArrayBuffer>;

/** An attention block as checkpoints store it; biases where it has them. */
export interface AttentionTensors {
  /** `[H·K, D]` */
  readonly query: Floats;
  /** `[G·K, D]` */
  readonly key: Floats;
  /** `[G·K, D]` */
  readonly value: Floats;
  /** `[D, H·K]` */
  readonly output: Floats;
  readonly queryBias?: Floats;
  readonly keyBias?: Floats;
  readonly valueBias?: Floats;
  readonly outputBias?: Floats;
}

/** An attention block as we multiply it. */
export interface PackedAttention {
  /** `[(H + 2G)·K, D]`: query, key, value heads; in query and key heads the members of a pair side by side. */
  readonly qkv: Floats;
  /** `[(H + 2G)·K]`, zero for value heads; null without biases. */
  readonly qkvBias: Floats | null;
  /** `[D, H·K]` */
  readonly output: Floats;
  readonly outputBias: Floats | null;
}

export interface GatedMlpTensors {
  /** `[F, D]` */
  readonly gate: Floats;
  /** `[F, D]` */
  readonly up: Floats;
  /** `[D, F]` */
  readonly down: Floats;
}

export interface PackedGatedMlp {
  /** `[2F, D]`: gate rows, then up rows. */
  readonly gateUp: Floats;
  /** `[D, F]` */
  readonly down: Floats;
}

/** The rotary pairs of a head in their original order, for each key/value head. */
export function originalPairs({ numKeyValueHeads, headDim }: ModelConfig): number[][] {
  return Array.from({ length: numKeyValueHeads }, () => Array.from({ length: headDim / 2 }, (_, pair) => pair));
}

/**
 * Packs an attention block: pairs in the given order (uniql.md §3.4), their members, `i` and `i + K/2` in a checkpoint,
 * next to each other; a bias on the values moved into the output's, which is exact because attention weights sum to one
 * (uniql.md §3.5).
 *
 * @param pairs For each key/value head the original pair at each place; its query heads follow it.
 */
export function packAttention(
  config: ModelConfig,
  tensors: AttentionTensors,
  pairs: readonly (readonly number[])[],
): PackedAttention {
  const { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = config;
  const qkv = new Float32Array((H + 2 * G) * K * D);
  const hasBias = tensors.queryBias !== undefined || tensors.keyBias !== undefined;
  const qkvBias = hasBias ? new Float32Array((H + 2 * G) * K) : null;

  const place = (from: Floats, bias: Floats | undefined, fromRow: number, toRow: number) => {
    qkv.set(from.subarray(fromRow * D, (fromRow + 1) * D), toRow * D);
    if (qkvBias !== null && bias !== undefined) qkvBias[toRow] = bias[fromRow]!;
  };
  const rotary = (from: Floats, bias: Floats | undefined, head: number, group: number, toHead: number) => {
    pairs[group]!.forEach((pair, at) => {
      place(from, bias, head * K + pair, toHead * K + 2 * at);
      place(from, bias, head * K + pair + K / 2, toHead * K + 2 * at + 1);
    });
  };
  for (let head = 0; head < H; head++) {
    rotary(tensors.query, tensors.queryBias, head, Math.floor(head / (H / G)), head);
  }
  for (let head = 0; head < G; head++) rotary(tensors.key, tensors.keyBias, head, head, H + head);
  qkv.set(tensors.value, (H + G) * K * D);
  const { output, outputBias } = foldValueBias(config, tensors);
  return { qkv, qkvBias, output, outputBias: outputBias ?? null };
}

/**
 * The same function with the bias of the values moved into the output's: `b_o + Σ_heads W_o,head · b_v,group(head)`.
 * It must not be cut with the values (uniql.md §3.5).
 */
export function foldValueBias(
  { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K }: Pick<
    ModelConfig,
    "hiddenSize" | "numAttentionHeads" | "numKeyValueHeads" | "headDim"
  >,
  { valueBias, ...tensors }: AttentionTensors,
): AttentionTensors {
  if (valueBias === undefined) return tensors;
  const { output, outputBias } = tensors;
  const bias = Float64Array.from(outputBias ?? new Float32Array(D));
  for (let row = 0; row < D; row++) {
    for (let head = 0; head < H; head++) {
      const group = Math.floor(head / (H / G));
      for (let i = 0; i < K; i++) bias[row]! += output[row * H * K + head * K + i]! * valueBias[group * K + i]!;
    }
  }
  return { ...tensors, outputBias: Float32Array.from(bias) };
}

/** Packs an MLP, its channels in the given order. */
export function packGatedMlp(
  { hiddenSize: D, intermediateSize: F }: ModelConfig,
  { gate, up, down }: GatedMlpTensors,
  channels: readonly number[],
): PackedGatedMlp {
  const gateUp = new Float32Array(2 * F * D);
  const packedDown = new Float32Array(D * F);
  channels.forEach((channel, at) => {
    gateUp.set(gate.subarray(channel * D, (channel + 1) * D), at * D);
    gateUp.set(up.subarray(channel * D, (channel + 1) * D), (F + at) * D);
  });
  for (let row = 0; row < D; row++) {
    for (let at = 0; at < F; at++) packedDown[row * F + at] = down[row * F + channels[at]!]!;
  }
  return { gateUp, down: packedDown };
}

/** Where a run of every head's components lies in a packed axis: indices of the components, head by head. */
export function headComponents(
  heads: number,
  headDim: number,
  { start, end }: { start: number; end: number },
): Int32Array {
  const width = end - start;
  return Int32Array.from({ length: heads * width }, (_, at) => Math.floor(at / width) * headDim + start + at % width);
}

/** Rows of a matrix in the given order: `[rows, columns]` → `[indices, columns]`. */
export function takeRows(matrix: Floats, columns: number, indices: ArrayLike<number>): Floats {
  const taken = new Float32Array(indices.length * columns);
  for (let at = 0; at < indices.length; at++) {
    const row = indices[at]!;
    taken.set(matrix.subarray(row * columns, (row + 1) * columns), at * columns);
  }
  return taken;
}

/** Columns of a matrix in the given order: `[rows, columns]` → `[rows, indices]`. */
export function takeColumns(matrix: Floats, columns: number, indices: ArrayLike<number>): Floats {
  const rows = matrix.length / columns;
  const taken = new Float32Array(rows * indices.length);
  for (let row = 0; row < rows; row++) {
    for (let at = 0; at < indices.length; at++) {
      taken[row * indices.length + at] = matrix[row * columns + indices[at]!]!;
    }
  }
  return taken;
}
