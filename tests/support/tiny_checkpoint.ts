import { join } from "node:path";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { expectedTensors, type ModelConfig } from "../../models/description.ts";
import { describe } from "../../models/families/mod.ts";
import { SafetensorsWriter } from "../../models/safetensors_writer.ts";

/** A byte-level tokenizer of nothing but the printable characters: token `i` is character `i + 32`. */
export const TINY_TOKENIZER = {
  version: "1.0",
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
  post_processor: null,
  decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: "BPE",
    vocab: Object.fromEntries(
      Array.from({ length: 95 }, (_, i) => [i === 0 ? "Ġ" : String.fromCharCode(32 + i), i]),
    ),
    merges: [],
  },
};

/** Writes a random checkpoint of a Llama or a relative of the same configuration; see `writeRandomCheckpoint`. */
export async function writeTinyCheckpoint(
  folder: string,
  config: ModelConfig,
  seed: number,
  { architecture = "LlamaForCausalLM", ...options }: { architecture?: string; onGrid?: boolean } = {},
): Promise<void> {
  const raw = {
    architectures: [architecture],
    model_type: config.family,
    hidden_act: "silu",
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    rms_norm_eps: config.rmsNormEps,
    max_position_embeddings: config.maxPositionEmbeddings,
    rope_theta: config.rope.theta,
    rope_scaling: config.rope.scaling?.kind === "llama3"
      ? {
        rope_type: "llama3",
        factor: config.rope.scaling.factor,
        low_freq_factor: config.rope.scaling.lowFreqFactor,
        high_freq_factor: config.rope.scaling.highFreqFactor,
        original_max_position_embeddings: config.rope.scaling.originalMaxPositionEmbeddings,
      }
      : null,
    tie_word_embeddings: config.tieWordEmbeddings,
    bos_token_id: config.bosTokenId,
    eos_token_id: [...config.eosTokenIds],
  };
  await writeRandomCheckpoint(folder, raw, seed, options);
}

/**
 * Writes a checkpoint of random weights as Hugging Face lays one out.
 *
 * @param raw `config.json` of any family.
 * @param onGrid All weights of a matrix row are small multiples of one power of two, so that int4 holds them exactly,
 * in whatever order their columns are.
 */
export async function writeRandomCheckpoint(
  folder: string,
  raw: object,
  seed: number,
  { onGrid = false }: { onGrid?: boolean } = {},
): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify(raw));
  await Deno.writeTextFile(join(folder, "tokenizer.json"), JSON.stringify(TINY_TOKENIZER));
  await Deno.writeTextFile(join(folder, "tokenizer_config.json"), "{}");

  const random = xoroshiro128plus(seed);
  const normal = () =>
    Math.sqrt(-2 * Math.log(1 - uniformFloat64(random))) * Math.cos(2 * Math.PI * uniformFloat64(random));
  const tensors = [...expectedTensors(describe(raw))];
  using writer = await SafetensorsWriter.create(
    join(folder, "model.safetensors"),
    tensors.map(([name, shape]) => ({ name, dtype: "F32" as const, shape })),
  );
  for (const [name, shape] of tensors) {
    const length = shape.reduce((product, size) => product * size, 1);
    const data = new Float32Array(length);
    if (name.endsWith("norm.weight")) data.forEach((_, i) => data[i] = 1 + 0.3 * normal());
    else if (shape.length !== 2) data.forEach((_, i) => data[i] = 0.5 * normal());
    else if (onGrid) {
      // Every block must have a 7, for the search to find the step, and something else, to find no other.
      const multiple = () => uniformFloat64(random) < 2 / 3 ? 7 : [0, 1, 4][Math.floor(3 * uniformFloat64(random))]!;
      const steps = Array.from({ length: shape[0]! }, () => 2 ** -Math.round(5.5 + uniformFloat64(random)));
      data.forEach((_, i) =>
        data[i] = steps[Math.floor(i / shape[1]!)]! * multiple() * (uniformFloat64(random) < 0.5 ? -1 : 1)
      );
    } else {
      // Rows and columns of very different size, so that orders differ from what chance would give.
      const columns = shape[1]!;
      const rowSize = Array.from({ length: shape[0]! }, () => Math.exp(0.7 * normal()));
      const columnSize = Array.from({ length: columns }, () => Math.exp(0.3 * normal()));
      const scale = 1 / Math.sqrt(columns);
      data.forEach((_, i) => data[i] = scale * normal() * rowSize[Math.floor(i / columns)]! * columnSize[i % columns]!);
    }
    await writer.write(name, data);
  }
  await writer.finish();
}
