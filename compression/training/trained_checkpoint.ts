import { join } from "node:path";
import {
  type Block,
  expectedTensors,
  type ModelConfig,
  type ModelDescription,
  rotaryDimOf,
} from "../../models/description.ts";
import type { Floats } from "../../models/floats.ts";
import { headPlaces, originalPairs, originalPassed, takeRows } from "../../models/layout.ts";
import type { BlockPlan, ModelPlan } from "../../models/plan.ts";
import { SafetensorsWriter } from "../../models/safetensors_writer.ts";
import type { TokenizerFiles } from "../../models/tokenizer_files.ts";
import { inverseOrder } from "../permutations.ts";
import type { ParameterLayout } from "./parameters.ts";

interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Floats;
}

/**
 * A trained model's tensors as checkpoints name and order them: the opposite of packing (`models/layout.ts`).
 *
 * @param description Of a model whose attention has no biases.
 * @param plan Of one level.
 * @param weights Flat, as `layout` says.
 * @throws {RangeError} If the description has other tensors than those that are trained.
 */
export function trainedTensors(
  description: ModelDescription,
  plan: ModelPlan,
  layout: ParameterLayout,
  weights: Floats,
): NamedTensor[] {
  const { config, embedding, finalNorm, head } = description;
  const shapes = expectedTensors(description);
  const view = (name: string) => layout.view(weights, name);
  const plans = plan.layers.flat();
  const found: readonly (readonly [string, Floats])[] = [
    [embedding, view("embedding.weight")],
    ...description.layers.flat().flatMap((block, index) => unpack(config, block, plans[index]!, view)),
    [finalNorm, view("final_norm")],
    ...(head === null ? [] : [[head, view("head.weight")] as const]),
  ];
  const missing = new Set(shapes.keys()).difference(new Map(found));
  if (missing.size > 0) {
    throw new RangeError(`Cannot write a trained ${config.family}: ${[...missing].join(", ")} were not trained`);
  }
  return found.map(([name, data]) => ({ name, shape: shapes.get(name)!, data }));
}

/** The tensors of a block by their names in the checkpoint. */
function unpack(
  config: ModelConfig,
  block: Block,
  { name }: BlockPlan,
  view: (name: string) => Floats,
): (readonly [string, Floats])[] {
  const { hiddenSize: D, headDim: K, numAttentionHeads: H, numKeyValueHeads: G, intermediateSize: F } = config;
  const part = (part: string) => view(`${name}.${part}`);
  const joined = (first: Floats, second: Floats) => {
    const both = new Float32Array(first.length + second.length);
    both.set(first);
    both.set(second, first.length);
    return both;
  };
  switch (block.kind) {
    case "attention": {
      const qkv = part("qkv.0.weight");
      const heads = (from: number, to: number) => qkv.subarray(from * K * D, to * K * D);
      return [
        [block.norm, part("norm")],
        [block.query.weight, originalHeads(config, heads(0, H))],
        [block.key.weight, originalHeads(config, heads(H, H + G))],
        [block.value.weight, heads(H + G, H + 2 * G)],
        [block.output.weight, part("output.0.weight")],
      ];
    }
    case "gatedMlp": {
      const gateUp = part("gate_up.0.weight");
      return [
        [block.norm, part("norm")],
        [block.gate.weight, gateUp.subarray(0, F * D)],
        [block.up.weight, gateUp.subarray(F * D)],
        [block.down.weight, part("down.0.weight")],
      ];
    }
    case "mlp":
      return [
        [block.norm, part("norm")],
        [block.up.weight, part("up.0.weight")],
        [block.down.weight, part("down.0.weight")],
      ];
    case "mamba": {
      const { weight, bias } = block.convolution;
      return [
        [block.norm, part("norm")],
        [block.input.weight, part("input.0.weight")],
        [weight, joined(part("conv_x"), part("conv_bc"))],
        ...(bias === undefined ? [] : [[bias, joined(part("conv_x_bias"), part("conv_bc_bias"))] as const]),
        [block.aLog, part("a_log")],
        [block.skip, part("skip")],
        [block.dtBias, part("dt_bias")],
        [block.gatedNorm, part("gated_norm")],
        [block.output.weight, part("output.0.weight")],
      ];
    }
    default:
      return block satisfies never;
  }
}

/** Rows of query or key heads whose rotary pairs are neighbours, as checkpoints order them. */
function originalHeads(config: ModelConfig, matrix: Floats): Floats {
  const { hiddenSize: D, headDim: K } = config;
  const shape = { rotaryDim: rotaryDimOf(config), headDim: K };
  const place = inverseOrder(headPlaces(shape, originalPairs(config)[0]!, originalPassed(config)[0]!));
  const rows = Array.from({ length: matrix.length / D }, (_, row) => row - row % K + place[row % K]!);
  return takeRows(matrix, D, rows);
}

/**
 * Writes a checkpoint as Hugging Face lays it out, in float32; files that are there are replaced, `config.json` last.
 *
 * @param rawConfig Its `config.json`.
 * @param provenance Put into the metadata of `model.safetensors`.
 */
export async function writeTrainedCheckpoint(
  folder: string,
  { tensors, rawConfig, config, tokenizer, provenance }: {
    tensors: readonly NamedTensor[];
    rawConfig: object;
    config: ModelConfig;
    tokenizer: TokenizerFiles;
    provenance: Readonly<Record<string, string>>;
  },
): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const path = join(folder, "model.safetensors");
  const entries = tensors.map(({ name, shape }) => ({ name, shape, dtype: "F32" as const }));
  {
    using writer = await SafetensorsWriter.create(`${path}.part`, entries, { format: "pt", ...provenance });
    for (const { name, data } of tensors) await writer.write(name, data);
    await writer.finish();
  }
  await Deno.rename(`${path}.part`, path);
  const json = (name: string, value: unknown) =>
    Deno.writeTextFile(join(folder, name), `${JSON.stringify(value, null, 2)}\n`);
  await json("tokenizer.json", tokenizer.tokenizerJson);
  await json("tokenizer_config.json", {
    ...tokenizer.tokenizerConfig,
    model_max_length: config.maxPositionEmbeddings,
  });
  await json("generation_config.json", { bos_token_id: config.bosTokenId, eos_token_id: config.eosTokenIds[0] });
  await json("config.json", rawConfig);
}
