/**
 * From a checkpoint's tensors to the order in which we store and multiply them.
 *
 * Letters in shapes: D hidden, F intermediate, H query heads, G key/value heads, K head dim, R components that RoPE turns;
 * in a Mamba block H heads of P channels, G groups of N states, k taps of the convolution.
 */

import { mambaOf, type ModelConfig, rotaryDimOf } from "./description.ts";
import type { Floats } from "./floats.ts";
import { type MambaInputChunk, type Run, runWidth } from "./plan.ts";

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

export interface MlpTensors {
  /** `[F, D]` */
  readonly up: Floats;
  /** `[D, F]` */
  readonly down: Floats;
}

/** A Mamba block as checkpoints store it; see `MambaBlock` for shapes. */
export interface MambaTensors {
  /** `[2·H·P + 2·G·N + H, D]`: rows of z, x, B, C, dt. */
  readonly input: Floats;
  /** `[H·P + 2·G·N, 1, k]` */
  readonly convolution: Floats;
  readonly convolutionBias?: Floats;
  readonly aLog: Floats;
  /** `[H]` or `[H·P]` */
  readonly skip: Floats;
  readonly dtBias: Floats;
  readonly gatedNorm: Floats;
  /** `[D, H·P]` */
  readonly output: Floats;
}

/** A Mamba block as we multiply it: channels and states in sorted order, the convolution in two. */
export interface PackedMamba {
  /** `[2·H·P + 2·G·N + H, D]`: rows of z, x, B, C, dt. */
  readonly input: Floats;
  /** `[H, P, k]` */
  readonly convX: Floats;
  readonly convXBias: Floats | null;
  /** `[2G, N, k]`: B's groups, then C's. */
  readonly convBc: Floats;
  readonly convBcBias: Floats | null;
  readonly aLog: Floats;
  readonly skip: Floats;
  readonly dtBias: Floats;
  readonly gatedNorm: Floats;
  readonly output: Floats;
}

/** The order of a Mamba block's channels and states: which original one stands at each place. */
export interface MambaOrder {
  /** `[H][P]` */
  readonly channels: readonly (readonly number[])[];
  /** `[G][N]` */
  readonly states: readonly (readonly number[])[];
}

/** The channels and states of a Mamba block in their original order. */
export function originalMambaOrder(config: ModelConfig): MambaOrder {
  const { numHeads, headDim, numGroups, stateSize } = mambaOf(config);
  return { channels: rowsOf(numHeads, headDim), states: rowsOf(numGroups, stateSize) };
}

/** The rotary pairs of a head in their original order, for each key/value head. */
export function originalPairs(config: ModelConfig): number[][] {
  return rowsOf(config.numKeyValueHeads, rotaryDimOf(config) / 2);
}

/** The components that RoPE leaves alone in their original order, for each key/value head. */
export function originalPassed(config: ModelConfig): number[][] {
  const rotaryDim = rotaryDimOf(config);
  return rowsOf(config.numKeyValueHeads, config.headDim - rotaryDim).map((row) => row.map((i) => rotaryDim + i));
}

function rowsOf(rows: number, length: number): number[][] {
  return Array.from({ length: rows }, () => Array.from({ length }, (_, i) => i));
}

/**
 * The original component at each of the K places of a query or key head.
 *
 * Members of a pair are neighbours. Where RoPE turns half of a head, a pair and two components that it leaves alone take
 * turns, so that every multiple of four places keeps as many of either kind.
 *
 * @param pairs The original pairs, R/2 of them.
 * @param passed The original components that are not turned, K − R of them.
 */
export function headPlaces(
  { rotaryDim, headDim }: { rotaryDim: number; headDim: number },
  pairs: readonly number[],
  passed: readonly number[],
): number[] {
  const members = (pair: number) => [pair, pair + rotaryDim / 2];
  switch (rotaryDim) {
    case headDim:
      return pairs.flatMap(members);
    case headDim / 2:
      return pairs.flatMap((pair, at) => [...members(pair), ...passed.slice(2 * at, 2 * at + 2)]);
    case 0:
      return [...passed];
    default:
      throw new RangeError(
        `Cannot place heads of ${headDim} of which RoPE turns ${rotaryDim}: wanted all, half or none`,
      );
  }
}

/**
 * The original pair at each two neighbouring places of a head: K/2 entries, of which those of components that RoPE leaves
 * alone are R/2, a pair that does not exist.
 */
export function pairPlaces(
  { rotaryDim, headDim }: { rotaryDim: number; headDim: number },
  pairs: readonly number[],
): number[] {
  return rotaryDim === headDim ? [...pairs] : pairs.flatMap((pair) => [pair, rotaryDim / 2]);
}

/**
 * Packs an attention block: pairs in the given order (uniql.md §3.4), their members, `i` and `i + R/2` in a checkpoint,
 * next to each other; a bias on the values moved into the output's, which is exact because attention weights sum to one
 * (uniql.md §3.5).
 *
 * @param pairs For each key/value head the original pair at each place; its query heads follow it.
 * @param passed Likewise the original components that RoPE leaves alone; by default in their original order.
 */
export function packAttention(
  config: ModelConfig,
  tensors: AttentionTensors,
  pairs: readonly (readonly number[])[],
  passed: readonly (readonly number[])[] = originalPassed(config),
): PackedAttention {
  const { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = config;
  const rotaryDim = rotaryDimOf(config);
  const qkv = new Float32Array((H + 2 * G) * K * D);
  const hasBias = tensors.queryBias !== undefined || tensors.keyBias !== undefined;
  const qkvBias = hasBias ? new Float32Array((H + 2 * G) * K) : null;

  const places = pairs.map((head, group) => headPlaces({ rotaryDim, headDim: K }, head, passed[group]!));
  const place = (from: Floats, bias: Floats | undefined, head: number, group: number, toHead: number) => {
    places[group]!.forEach((component, at) => {
      const [fromRow, toRow] = [head * K + component, toHead * K + at];
      qkv.set(from.subarray(fromRow * D, (fromRow + 1) * D), toRow * D);
      if (qkvBias !== null && bias !== undefined) qkvBias[toRow] = bias[fromRow]!;
    });
  };
  for (let head = 0; head < H; head++) {
    place(tensors.query, tensors.queryBias, head, Math.floor(head / (H / G)), head);
  }
  for (let head = 0; head < G; head++) place(tensors.key, tensors.keyBias, head, head, H + head);
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

/** Packs an MLP without a gate, its channels in the given order. */
export function packMlp(
  { hiddenSize: D, intermediateSize: F }: ModelConfig,
  { up, down }: MlpTensors,
  channels: readonly number[],
): MlpTensors {
  return { up: takeRows(up, D, channels), down: takeColumns(down, F, channels) };
}

/** Packs a Mamba block, its channels and states in the given order (uniql.md §3.6, §3.7). */
export function packMamba(config: ModelConfig, tensors: MambaTensors, order: MambaOrder): PackedMamba {
  const { numHeads: H, headDim: P, numGroups: G, stateSize: N, convKernel: k } = mambaOf(config);
  const [E, S] = [H * P, G * N];
  const channels = order.channels.flatMap((places, head) => places.map((place) => head * P + place));
  const states = order.states.flatMap((places, group) => places.map((place) => group * N + place));
  const shifted = (indices: readonly number[], by: number) => indices.map((index) => by + index);
  const bcChannels = [...shifted(states, E), ...shifted(states, E + S)];
  const rows = [
    ...channels,
    ...shifted(channels, E),
    ...shifted(bcChannels, E),
    ...Array.from({ length: H }, (_, head) => 2 * E + 2 * S + head),
  ];
  const { convolution, convolutionBias, skip } = tensors;
  return {
    input: takeRows(tensors.input, config.hiddenSize, rows),
    convX: takeRows(convolution, k, channels),
    convXBias: convolutionBias === undefined ? null : takeRows(convolutionBias, 1, channels),
    convBc: takeRows(convolution, k, bcChannels),
    convBcBias: convolutionBias === undefined ? null : takeRows(convolutionBias, 1, bcChannels),
    aLog: tensors.aLog,
    skip: skip.length === H ? skip : takeRows(skip, 1, channels),
    dtBias: tensors.dtBias,
    gatedNorm: takeRows(tensors.gatedNorm, 1, channels),
    output: takeColumns(tensors.output, E, channels),
  };
}

/** Rows of a Mamba block's packed input projection that one of its segments holds, in the order of `mambaInputMatrix`. */
export function mambaInputRows(config: ModelConfig, { channels, states, start }: MambaInputChunk): Int32Array {
  const { numHeads: H, headDim: P, numGroups: G, stateSize: N } = mambaOf(config);
  return Int32Array.from([
    ...headComponents(2 * H, P, channels),
    ...headComponents(2 * G, N, states).map((index) => 2 * H * P + index),
    ...Array.from({ length: start === 0 ? H : 0 }, (_, head) => 2 * H * P + 2 * G * N + head),
  ]);
}

/** Where a run of every head's components lies in a packed axis: indices of the components, head by head. */
export function headComponents(
  heads: number,
  headDim: number,
  run: Run,
): Int32Array {
  const { start } = run;
  const width = runWidth(run);
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
