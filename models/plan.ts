/**
 * What is stored of a model and how it is cut. The graph, the artefact's writer, its checker and the size report all
 * read this, so that they cannot disagree.
 *
 * Letters: D hidden, H query heads, G key/value heads, V vocabulary.
 */

import type { ModelConfig } from "./description.ts";
import { type Chunk, chunksOf, chunkWidth } from "./widths.ts";

interface BlockBase {
  /** Prefix of its tensors' names, such as `layers.3.attention`. */
  readonly name: string;
  /** Kept size of its prunable axis per level: components of a head, or channels of the MLP. */
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

export type BlockPlan = AttentionPlan | GatedMlpPlan;

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
  | { readonly kind: "gatedMlp"; readonly widths: readonly number[] };

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
        const name = `layers.${layer}.${spec.kind === "attention" ? "attention" : "mlp"}`;
        const full = spec.kind === "attention" ? config.headDim : config.intermediateSize;
        if (spec.widths.length !== levels || spec.widths[0] !== full) {
          throw new RangeError(
            `Cannot plan ${name} with widths ${spec.widths.join(", ")}: they must be ${levels} and start with ${full}`,
          );
        }
        return { ...spec, name, chunks: chunksOf(spec.widths) };
      })
    ),
  };
}

/** One level as a plan of its own: the same stored chunks, nothing left to choose. */
export function planAtLevel(plan: ModelPlan, level: number): ModelPlan {
  return {
    ...plan,
    levels: 1,
    layers: plan.layers.map((blocks) =>
      blocks.map((block) => ({
        ...block,
        widths: [block.widths[level]!],
        chunks: block.chunks.filter((chunk) => level <= chunk.level).map((chunk) => ({ ...chunk, level: 0 })),
      }))
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
export function downMatrix(config: ModelConfig, block: GatedMlpPlan, chunk: number): Matrix {
  return {
    name: `${block.name}.down.${chunk}`,
    outFeatures: config.hiddenSize,
    inFeatures: chunkWidth(block.chunks[chunk]!),
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

/** Names of the float32 vectors `[D]`: one norm per block, and the last. */
export function normNames({ layers }: ModelPlan): string[] {
  return [...layers.flat().map(({ name }) => `${name}.norm`), "final_norm"];
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
    default:
      return block satisfies never;
  }
}
