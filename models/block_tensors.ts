import type { Checkpoint } from "./checkpoint.ts";
import type { BlockWeights } from "./dense_block.ts";
import type { Block, ModelConfig, ModelDescription } from "./description.ts";
import { type AttentionTensors, type GatedMlpTensors, originalPairs, packAttention, packGatedMlp } from "./layout.ts";
import { type BlockSpec, type ModelPlan, planModel } from "./plan.ts";

type Floats = Float32Array<ArrayBuffer>;

/** A block's tensors with the weight of its norm, in the checkpoint's order. */
export type BlockTensors =
  | { readonly kind: "attention"; readonly norm: Floats; readonly tensors: AttentionTensors }
  | { readonly kind: "gatedMlp"; readonly norm: Floats; readonly tensors: GatedMlpTensors };

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
    default:
      return block satisfies never;
  }
}

/** A block as the checkpoint orders it, packed for the graphs. */
export function packOriginal(config: ModelConfig, { kind, norm, tensors }: BlockTensors): BlockWeights {
  switch (kind) {
    case "attention":
      return { kind, norm, ...packAttention(config, tensors, originalPairs(config)) };
    case "gatedMlp": {
      const channels = Array.from({ length: config.intermediateSize }, (_, channel) => channel);
      return { kind, norm, ...packGatedMlp(config, tensors, channels) };
    }
    default:
      return kind satisfies never;
  }
}

/** What a block's plan needs to know, at the given widths per level. */
export function specOf(block: Block, widths: readonly number[]): BlockSpec {
  switch (block.kind) {
    case "attention":
      return {
        kind: "attention",
        widths,
        queryKeyBias: block.query.bias !== undefined || block.key.bias !== undefined,
        outputBias: block.output.bias !== undefined || block.value.bias !== undefined,
      };
    case "gatedMlp":
      return { kind: "gatedMlp", widths };
    default:
      return block satisfies never;
  }
}

/** The plan of the whole, uncut model. */
export function densePlan({ config, layers }: ModelDescription): ModelPlan {
  return planModel(
    config,
    layers.map((blocks) =>
      blocks.map((block) => specOf(block, [block.kind === "attention" ? config.headDim : config.intermediateSize]))
    ),
  );
}
