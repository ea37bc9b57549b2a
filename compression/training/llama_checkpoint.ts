import { join } from "node:path";
import type { ModelConfig } from "../../models/description.ts";
import type { ModelPlan } from "../../models/plan.ts";
import { SafetensorsWriter } from "../../models/safetensors_writer.ts";
import type { TokenizerFiles } from "../../models/tokenizer_files.ts";
import type { ParameterLayout } from "./parameters.ts";

type Floats = Float32Array<ArrayBuffer>;

interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Floats;
}

/**
 * A trained model's tensors as Llama checkpoints name and order them: the opposite of packing (`models/layout.ts`).
 *
 * @param plan A Llama model of one level, with tied embeddings.
 * @param weights Flat, as `layout` says.
 */
export function llamaTensors(plan: ModelPlan, layout: ParameterLayout, weights: Floats): NamedTensor[] {
  const { hiddenSize: D, intermediateSize: F, numAttentionHeads: H, numKeyValueHeads: G, headDim: K, vocabSize: V } =
    plan.config;
  const view = (name: string) => layout.view(weights, name);
  const rows = (matrix: Floats, from: number, to: number) => matrix.subarray(from * D, to * D);
  return [
    { name: "model.embed_tokens.weight", shape: [V, D], data: view("embedding.weight") },
    ...plan.layers.flatMap(([attention, mlp], layer) => {
      const prefix = `model.layers.${layer}`;
      const qkv = view(`${attention!.name}.qkv.0.weight`);
      const gateUp = view(`${mlp!.name}.gate_up.0.weight`);
      return [
        { name: `${prefix}.input_layernorm.weight`, shape: [D], data: view(`${attention!.name}.norm`) },
        { name: `${prefix}.self_attn.q_proj.weight`, shape: [H * K, D], data: halfSplit(rows(qkv, 0, H * K), K, D) },
        {
          name: `${prefix}.self_attn.k_proj.weight`,
          shape: [G * K, D],
          data: halfSplit(rows(qkv, H * K, (H + G) * K), K, D),
        },
        {
          name: `${prefix}.self_attn.v_proj.weight`,
          shape: [G * K, D],
          data: rows(qkv, (H + G) * K, (H + 2 * G) * K),
        },
        {
          name: `${prefix}.self_attn.o_proj.weight`,
          shape: [D, H * K],
          data: view(`${attention!.name}.output.0.weight`),
        },
        { name: `${prefix}.post_attention_layernorm.weight`, shape: [D], data: view(`${mlp!.name}.norm`) },
        { name: `${prefix}.mlp.gate_proj.weight`, shape: [F, D], data: rows(gateUp, 0, F) },
        { name: `${prefix}.mlp.up_proj.weight`, shape: [F, D], data: rows(gateUp, F, 2 * F) },
        { name: `${prefix}.mlp.down_proj.weight`, shape: [D, F], data: view(`${mlp!.name}.down.0.weight`) },
      ];
    }),
    { name: "model.norm.weight", shape: [D], data: view("final_norm") },
  ];
}

/** Rows of heads whose rotary pairs are neighbours, in the order of pairs that are half a head apart. */
function halfSplit(matrix: Floats, headDim: number, columns: number): Floats {
  const result = new Float32Array(matrix.length);
  for (let row = 0; row < matrix.length / columns; row++) {
    const [head, place] = [Math.floor(row / headDim), row % headDim];
    const target = head * headDim + (place % 2) * headDim / 2 + Math.floor(place / 2);
    result.set(matrix.subarray(row * columns, (row + 1) * columns), target * columns);
  }
  return result;
}

/** `config.json` of a Llama model, under Hugging Face's names. */
export function llamaConfig(config: ModelConfig): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    attention_bias: false,
    attention_dropout: 0,
    mlp_bias: false,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenIds[0],
    head_dim: config.headDim,
    hidden_act: "silu",
    hidden_size: config.hiddenSize,
    initializer_range: 0.02,
    intermediate_size: config.intermediateSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    num_attention_heads: config.numAttentionHeads,
    num_hidden_layers: config.numHiddenLayers,
    num_key_value_heads: config.numKeyValueHeads,
    rms_norm_eps: config.rmsNormEps,
    rope_scaling: null,
    rope_theta: config.rope.theta,
    tie_word_embeddings: config.tieWordEmbeddings,
    torch_dtype: "float32",
    use_cache: true,
    vocab_size: config.vocabSize,
  };
}

/**
 * Writes a checkpoint as Hugging Face lays it out, in float32; files that are there are replaced, `config.json` last.
 *
 * @param provenance Put into the metadata of `model.safetensors`.
 */
export async function writeLlamaCheckpoint(
  folder: string,
  { plan, layout, weights, tokenizer, provenance }: {
    plan: ModelPlan;
    layout: ParameterLayout;
    weights: Floats;
    tokenizer: TokenizerFiles;
    provenance: Readonly<Record<string, string>>;
  },
): Promise<void> {
  const { config } = plan;
  await Deno.mkdir(folder, { recursive: true });
  const tensors = llamaTensors(plan, layout, weights);
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
  await json("config.json", llamaConfig(config));
}
