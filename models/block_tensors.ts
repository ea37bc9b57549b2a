import type { Checkpoint } from "./checkpoint.ts";
import type { AttentionBlock, Block, GatedMlpBlock, ModelDescription } from "./description.ts";
import type { AttentionTensors, GatedMlpTensors } from "./layout.ts";
import { type BlockSpec, type ModelPlan, planModel } from "./plan.ts";

type Reads = Pick<Checkpoint, "read">;

/** Reads what an attention block is made of. */
export async function readAttention(checkpoint: Reads, block: AttentionBlock): Promise<AttentionTensors> {
  const bias = async (name: string | undefined, key: string) =>
    name === undefined ? {} : { [key]: await checkpoint.read(name) };
  return {
    query: await checkpoint.read(block.query.weight),
    key: await checkpoint.read(block.key.weight),
    value: await checkpoint.read(block.value.weight),
    output: await checkpoint.read(block.output.weight),
    ...await bias(block.query.bias, "queryBias"),
    ...await bias(block.key.bias, "keyBias"),
    ...await bias(block.value.bias, "valueBias"),
    ...await bias(block.output.bias, "outputBias"),
  };
}

/** Reads what an MLP is made of. */
export async function readGatedMlp(checkpoint: Reads, block: GatedMlpBlock): Promise<GatedMlpTensors> {
  return {
    gate: await checkpoint.read(block.gate.weight),
    up: await checkpoint.read(block.up.weight),
    down: await checkpoint.read(block.down.weight),
  };
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
