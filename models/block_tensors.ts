import type { Checkpoint } from "./checkpoint.ts";
import type { BlockWeights } from "./dense_block.ts";
import { type Block, mambaOf, type ModelConfig, type ModelDescription } from "./description.ts";
import type { Floats } from "./floats.ts";
import {
  type AttentionTensors,
  type GatedMlpTensors,
  type MambaTensors,
  type MlpTensors,
  originalMambaOrder,
  originalPairs,
  packAttention,
  packGatedMlp,
  packMamba,
  packMlp,
} from "./layout.ts";
import { type BlockSpec, fullWidth, type ModelPlan, planModel } from "./plan.ts";

/** A block's tensors with the weight of its norm, in the checkpoint's order. */
export type BlockTensors =
  | { readonly kind: "attention"; readonly norm: Floats; readonly tensors: AttentionTensors }
  | { readonly kind: "gatedMlp"; readonly norm: Floats; readonly tensors: GatedMlpTensors }
  | { readonly kind: "mlp"; readonly norm: Floats; readonly tensors: MlpTensors }
  | { readonly kind: "mamba"; readonly norm: Floats; readonly tensors: MambaTensors };

/** Reads what a block is made of. */
export async function readBlock(checkpoint: Pick<Checkpoint, "read">, block: Block): Promise<BlockTensors> {
  const read = (name: string) => checkpoint.read(name);
  const bias = async (name: string | undefined, key: string) => name === undefined ? {} : { [key]: await read(name) };
  const norm = await read(block.norm);
  switch (block.kind) {
    case "attention":
      return {
        kind: "attention",
        norm,
        tensors: {
          query: await read(block.query.weight),
          key: await read(block.key.weight),
          value: await read(block.value.weight),
          output: await read(block.output.weight),
          ...await bias(block.query.bias, "queryBias"),
          ...await bias(block.key.bias, "keyBias"),
          ...await bias(block.value.bias, "valueBias"),
          ...await bias(block.output.bias, "outputBias"),
        },
      };
    case "gatedMlp":
      return {
        kind: "gatedMlp",
        norm,
        tensors: {
          gate: await read(block.gate.weight),
          up: await read(block.up.weight),
          down: await read(block.down.weight),
        },
      };
    case "mlp":
      return {
        kind: "mlp",
        norm,
        tensors: { up: await read(block.up.weight), down: await read(block.down.weight) },
      };
    case "mamba":
      return {
        kind: "mamba",
        norm,
        tensors: {
          input: await read(block.input.weight),
          convolution: await read(block.convolution.weight),
          ...await bias(block.convolution.bias, "convolutionBias"),
          aLog: await read(block.aLog),
          skip: await read(block.skip),
          dtBias: await read(block.dtBias),
          gatedNorm: await read(block.gatedNorm),
          output: await read(block.output.weight),
        },
      };
    default:
      return block satisfies never;
  }
}

/** A block as the checkpoint orders it, packed for the graphs. */
export function packOriginal(config: ModelConfig, { kind, norm, tensors }: BlockTensors): BlockWeights {
  switch (kind) {
    case "attention":
      return { kind, norm, ...packAttention(config, tensors, originalPairs(config)) };
    case "gatedMlp":
      return { kind, norm, ...packGatedMlp(config, tensors, inOrder(config.intermediateSize)) };
    case "mlp":
      return { kind, norm, ...packMlp(config, tensors, inOrder(config.intermediateSize)) };
    case "mamba":
      return { kind, norm, ...packMamba(config, tensors, originalMambaOrder(config)) };
    default:
      return kind satisfies never;
  }
}

function inOrder(length: number): number[] {
  return Array.from({ length }, (_, index) => index);
}

/** Kept sizes of a block per level: `widths` of its axis, and of a Mamba block's states. */
export interface BlockWidths {
  readonly widths: readonly number[];
  readonly stateWidths?: readonly number[];
}

/** The sizes of an uncut block. */
export function fullWidths(config: ModelConfig, kind: Block["kind"]): BlockWidths {
  const widths = [fullWidth(config, kind)];
  return kind === "mamba" ? { widths, stateWidths: [mambaOf(config).stateSize] } : { widths };
}

/**
 * What a block's plan needs to know, at the given widths per level.
 *
 * @throws {RangeError} If a Mamba block is given no widths of its states.
 */
export function specOf(block: Block, { widths, stateWidths }: BlockWidths): BlockSpec {
  switch (block.kind) {
    case "attention":
      return {
        kind: "attention",
        widths,
        queryKeyBias: block.query.bias !== undefined || block.key.bias !== undefined,
        outputBias: block.output.bias !== undefined || block.value.bias !== undefined,
      };
    case "gatedMlp":
    case "mlp":
      return { kind: block.kind, widths };
    case "mamba":
      if (stateWidths === undefined) throw new RangeError("Cannot plan a Mamba block without widths of its states");
      return {
        kind: "mamba",
        widths,
        stateWidths,
        convBias: block.convolution.bias !== undefined,
        skipPerChannel: block.skipPerChannel,
      };
    default:
      return block satisfies never;
  }
}

/** The plan of the whole, uncut model. */
export function densePlan({ config, layers }: ModelDescription): ModelPlan {
  return planModel(
    config,
    layers.map((blocks) => blocks.map((block) => specOf(block, fullWidths(config, block.kind)))),
  );
}
