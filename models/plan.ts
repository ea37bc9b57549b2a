/**
 * What is stored of a model and how it is cut. The graph, the artefact's writer, its checker and the size report all
 * read this, so that they cannot disagree.
 *
 * Letters: D hidden, H query heads, G key/value heads, V vocabulary; in a Mamba block H heads of P channels, G groups of N
 * states, k taps of the convolution.
 */

import { mambaOf, type ModelConfig } from "./description.ts";
import { type Chunk, chunksOf, chunkWidth } from "./widths.ts";

interface BlockBase {
  /** Prefix of its tensors' names, such as `layers.3.attention`. */
  readonly name: string;
  /** Kept size of its prunable axis per level: components of a head, channels of the MLP, channels of a Mamba head. */
  readonly widths: readonly number[];
  readonly chunks: readonly Chunk[];
}

export interface AttentionPlan extends BlockBase {
  readonly kind: "attention";
  /** Biases on q and k (a bias on v is folded into the output's). */
  readonly queryKeyBias: boolean;
  readonly outputBias: boolean;
}

export interface GatedMlpPlan extends BlockBase {
  readonly kind: "gatedMlp";
}

export interface MlpPlan extends BlockBase {
  readonly kind: "mlp";
}

/**
 * A Mamba block has two prunable axes: the channels of its heads (`widths`, `chunks`), which `output` reads, and the
 * states of its groups. `input` writes both and is cut wherever one of them is.
 */
export interface MambaPlan extends BlockBase {
  readonly kind: "mamba";
  /** Kept states of a group per level. */
  readonly stateWidths: readonly number[];
  readonly inputChunks: readonly MambaInputChunk[];
  readonly convBias: boolean;
  readonly skipPerChannel: boolean;
}

/** A segment of a Mamba block's input projection; `start` and `end` count its rows. One of the two runs may be empty. */
export interface MambaInputChunk extends Chunk {
  /** Channels of every head. */
  readonly channels: Run;
  /** States of every group. */
  readonly states: Run;
}

/** Places `start` to `end` of an axis, the last excluded. */
export type Run = Pick<Chunk, "start" | "end">;

export type BlockPlan = AttentionPlan | GatedMlpPlan | MlpPlan | MambaPlan;

export interface ModelPlan {
  readonly config: ModelConfig;
  readonly levels: number;
  /**
   * The residual stream is rotated (uniql.md §6.2) and the embedding, rotated with it, is the head as well: then the
   * last norm's weight cannot be folded into the head, and a D × D matrix stands between them.
   */
  readonly headRotation: boolean;
  readonly layers: readonly (readonly BlockPlan[])[];
}

/** What a block needs to be planned; the rest follows. */
export type BlockSpec =
  | {
    readonly kind: "attention";
    readonly widths: readonly number[];
    readonly queryKeyBias: boolean;
    readonly outputBias: boolean;
  }
  | { readonly kind: "gatedMlp" | "mlp"; readonly widths: readonly number[] }
  | {
    readonly kind: "mamba";
    readonly widths: readonly number[];
    readonly stateWidths: readonly number[];
    readonly convBias: boolean;
    readonly skipPerChannel: boolean;
  };

/** Names the blocks and cuts their axes. @throws {RangeError} If the widths of a block are not nested. */
export function planModel(
  config: ModelConfig,
  layers: readonly (readonly BlockSpec[])[],
  { headRotation = false }: { headRotation?: boolean } = {},
): ModelPlan {
  const levels = layers[0]?.[0]?.widths.length ?? 0;
  return {
    config,
    levels,
    headRotation,
    layers: layers.map((blocks, layer) =>
      blocks.map((spec): BlockPlan => {
        const name = `layers.${layer}.${BLOCK_NAMES[spec.kind]}`;
        const check = (widths: readonly number[], full: number) => {
          if (widths.length === levels && widths[0] === full) return;
          throw new RangeError(
            `Cannot plan ${name} with widths ${widths.join(", ")}: they must be ${levels} and start with ${full}`,
          );
        };
        check(spec.widths, fullWidth(config, spec.kind));
        const base = { name, chunks: chunksOf(spec.widths) };
        if (spec.kind !== "mamba") return { ...spec, ...base };
        check(spec.stateWidths, mambaOf(config).stateSize);
        return { ...spec, ...base, inputChunks: mambaInputChunks(config, spec.widths, spec.stateWidths) };
      })
    ),
  };
}

/** The same block at full width in one piece, under another name. */
export function wholeBlock(config: ModelConfig, block: BlockPlan, name: string): BlockPlan {
  const widths = [block.widths[0]!];
  const whole = { ...block, name, widths, chunks: chunksOf(widths) };
  if (whole.kind !== "mamba") return whole;
  const stateWidths = [whole.stateWidths[0]!];
  return { ...whole, stateWidths, inputChunks: mambaInputChunks(config, widths, stateWidths) };
}

const BLOCK_NAMES: Readonly<Record<BlockPlan["kind"], string>> = {
  attention: "attention",
  gatedMlp: "mlp",
  mlp: "mlp",
  mamba: "mamba",
};

/** Size of the axis that `widths` of a block cut. */
export function fullWidth(config: ModelConfig, kind: BlockPlan["kind"]): number {
  switch (kind) {
    case "attention":
      return config.headDim;
    case "gatedMlp":
    case "mlp":
      return config.intermediateSize;
    case "mamba":
      return mambaOf(config).headDim;
    default:
      return kind satisfies never;
  }
}

function mambaInputChunks(
  config: ModelConfig,
  widths: readonly number[],
  stateWidths: readonly number[],
): MambaInputChunk[] {
  const { numHeads, numGroups } = mambaOf(config);
  // The levels after which one of the axes grows.
  const levels = [...new Set([...chunksOf(widths), ...chunksOf(stateWidths)].map(({ level }) => level))]
    .sort((a, b) => b - a);
  let start = 0;
  return levels.map((level, index) => {
    const narrower = levels[index - 1];
    const between = (axis: readonly number[]): Run => ({
      start: narrower === undefined ? 0 : axis[narrower]!,
      end: axis[level]!,
    });
    const [channels, states] = [between(widths), between(stateWidths)];
    const steps = index === 0 ? numHeads : 0;
    const end = start + 2 * numHeads * runWidth(channels) + 2 * numGroups * runWidth(states) + steps;
    const chunk = { start, end, level, channels, states };
    start = end;
    return chunk;
  });
}

/** Number of places of a run. */
export function runWidth({ start, end }: Run): number {
  return end - start;
}

/** One level as a plan of its own: the same stored chunks, nothing left to choose. */
export function planAtLevel(plan: ModelPlan, level: number): ModelPlan {
  return {
    ...plan,
    levels: 1,
    layers: plan.layers.map((blocks) =>
      blocks.map((block): BlockPlan => {
        const kept = <C extends Chunk>(chunks: readonly C[]) =>
          chunks.filter((chunk) => level <= chunk.level).map((chunk) => ({ ...chunk, level: 0 }));
        const narrow = { ...block, widths: [block.widths[level]!], chunks: kept(block.chunks) };
        if (narrow.kind !== "mamba") return narrow;
        return { ...narrow, stateWidths: [narrow.stateWidths[level]!], inputChunks: kept(narrow.inputChunks) };
      })
    ),
  };
}

/** A matrix as it is stored and multiplied: `y = x · Wᵀ (+ bias)`, W `[outFeatures, inFeatures]`. */
export interface Matrix {
  readonly name: string;
  readonly outFeatures: number;
  readonly inFeatures: number;
  readonly bias: boolean;
}

/**
 * The query, key and value rows of one chunk, head by head: H query heads, then G key heads, then G value heads. In
 * query and key heads the members of a rotary pair are neighbours.
 */
export function qkvMatrix(config: ModelConfig, block: AttentionPlan, chunk: number): Matrix {
  const heads = config.numAttentionHeads + 2 * config.numKeyValueHeads;
  return {
    name: `${block.name}.qkv.${chunk}`,
    outFeatures: heads * chunkWidth(block.chunks[chunk]!),
    inFeatures: config.hiddenSize,
    bias: block.queryKeyBias,
  };
}

/** The output projection's columns of one chunk, head by head. The bias belongs to the chunk that is never off. */
export function outputMatrix(config: ModelConfig, block: AttentionPlan, chunk: number): Matrix {
  return {
    name: `${block.name}.output.${chunk}`,
    outFeatures: config.hiddenSize,
    inFeatures: config.numAttentionHeads * chunkWidth(block.chunks[chunk]!),
    bias: block.outputBias && chunk === 0,
  };
}

/** The gate rows of one chunk, then its up rows. */
export function gateUpMatrix(config: ModelConfig, block: GatedMlpPlan, chunk: number): Matrix {
  return {
    name: `${block.name}.gate_up.${chunk}`,
    outFeatures: 2 * chunkWidth(block.chunks[chunk]!),
    inFeatures: config.hiddenSize,
    bias: false,
  };
}

/** The down projection's columns of one chunk. */
export function downMatrix(config: ModelConfig, block: GatedMlpPlan | MlpPlan, chunk: number): Matrix {
  return {
    name: `${block.name}.down.${chunk}`,
    outFeatures: config.hiddenSize,
    inFeatures: chunkWidth(block.chunks[chunk]!),
    bias: false,
  };
}

/** The up rows of one chunk of an MLP without a gate. */
export function upMatrix(config: ModelConfig, block: MlpPlan, chunk: number): Matrix {
  return {
    name: `${block.name}.up.${chunk}`,
    outFeatures: chunkWidth(block.chunks[chunk]!),
    inFeatures: config.hiddenSize,
    bias: false,
  };
}

/**
 * One segment of a Mamba block's input projection: its channels of z, head by head, then of x; its states of B, group by
 * group, then of C; and in the first segment the H rows of dt.
 */
export function mambaInputMatrix(config: ModelConfig, block: MambaPlan, chunk: number): Matrix {
  return {
    name: `${block.name}.input.${chunk}`,
    outFeatures: chunkWidth(block.inputChunks[chunk]!),
    inFeatures: config.hiddenSize,
    bias: false,
  };
}

/** The columns of one chunk of a Mamba block's output projection, head by head. */
export function mambaOutputMatrix(config: ModelConfig, block: MambaPlan, chunk: number): Matrix {
  return {
    name: `${block.name}.output.${chunk}`,
    outFeatures: config.hiddenSize,
    inFeatures: mambaOf(config).numHeads * chunkWidth(block.chunks[chunk]!),
    bias: false,
  };
}

/** The output head `[V, D]`, stored under the embedding's name where the two are tied. */
export function headMatrix(config: ModelConfig): Matrix {
  return { ...embeddingMatrix(config), name: config.tieWordEmbeddings ? "embedding" : "head" };
}

/** The rotation before a head that is tied to a rotated embedding; see `ModelPlan.headRotation`. */
export function headRotationMatrix({ hiddenSize }: ModelConfig): Matrix {
  return { name: "head_rotation", outFeatures: hiddenSize, inFeatures: hiddenSize, bias: false };
}

/** The embedding `[V, D]`; the head too where the two are tied. */
export function embeddingMatrix(config: ModelConfig): Matrix {
  return { name: "embedding", outFeatures: config.vocabSize, inFeatures: config.hiddenSize, bias: false };
}

/** The matrices outside the blocks, in the order in which they are stored. */
export function outerMatrices({ config, headRotation }: ModelPlan): Matrix[] {
  return [
    embeddingMatrix(config),
    ...(config.tieWordEmbeddings ? [] : [headMatrix(config)]),
    ...(headRotation ? [headRotationMatrix(config)] : []),
  ];
}

/** A float32 vector that is stored as it is, and whole: no level is spared its few bytes. */
export interface Vector {
  readonly name: string;
  readonly length: number;
}

/** All vectors of a model, in the order in which they are stored. */
export function modelVectors({ config, layers }: ModelPlan): Vector[] {
  return [
    ...layers.flat().flatMap((block) => blockVectors(config, block)),
    { name: "final_norm", length: config.hiddenSize },
  ];
}

/**
 * All vectors of a block, in the order in which they are stored: the norm, and of a Mamba block the convolution of x
 * (`[H, P, k]`, and a bias) and of B and C (`[2G, N, k]`), A and dt's bias `[H]`, D `[H]` or `[H, P]`, the gated norm
 * `[H, P]`. Channels and states are in sorted order.
 */
export function blockVectors(config: ModelConfig, block: BlockPlan): Vector[] {
  const named = (part: string, length: number): Vector => ({ name: `${block.name}.${part}`, length });
  const norm = named("norm", config.hiddenSize);
  if (block.kind !== "mamba") return [norm];
  const { numHeads, headDim, numGroups, stateSize, convKernel } = mambaOf(config);
  const channels = numHeads * headDim;
  const states = 2 * numGroups * stateSize;
  return [
    norm,
    named("conv_x", channels * convKernel),
    ...(block.convBias ? [named("conv_x_bias", channels)] : []),
    named("conv_bc", states * convKernel),
    ...(block.convBias ? [named("conv_bc_bias", states)] : []),
    named("a_log", numHeads),
    named("dt_bias", numHeads),
    named("skip", block.skipPerChannel ? channels : numHeads),
    named("gated_norm", channels),
  ];
}

/** All matrices of a block, with the chunk each belongs to, in the order in which they are stored. */
export function blockMatrices(config: ModelConfig, block: BlockPlan): { matrix: Matrix; chunk: Chunk }[] {
  switch (block.kind) {
    case "attention":
      return block.chunks.flatMap((chunk, index) => [
        { matrix: qkvMatrix(config, block, index), chunk },
        { matrix: outputMatrix(config, block, index), chunk },
      ]);
    case "gatedMlp":
      return block.chunks.flatMap((chunk, index) => [
        { matrix: gateUpMatrix(config, block, index), chunk },
        { matrix: downMatrix(config, block, index), chunk },
      ]);
    case "mlp":
      return block.chunks.flatMap((chunk, index) => [
        { matrix: upMatrix(config, block, index), chunk },
        { matrix: downMatrix(config, block, index), chunk },
      ]);
    case "mamba":
      return [
        ...block.inputChunks.map((chunk, index) => ({ matrix: mambaInputMatrix(config, block, index), chunk })),
        ...block.chunks.map((chunk, index) => ({ matrix: mambaOutputMatrix(config, block, index), chunk })),
      ];
    default:
      return block satisfies never;
  }
}
