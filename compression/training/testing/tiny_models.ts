import { densePlan } from "../../../models/block_tensors.ts";
import type { ModelConfig, ModelDescription } from "../../../models/description.ts";
import { describe } from "../../../models/families/mod.ts";
import type { ModelPlan } from "../../../models/plan.ts";
import { initialWeights } from "../initialization.ts";
import { ParameterLayout, trainedParameters } from "../parameters.ts";
import { randomFor } from "../random.ts";

const COMMON = {
  hidden_size: 32,
  vocab_size: 40,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
};

/** Models that are big enough for every part to count, and small enough for differences, as `config.json` has them. */
export const TINY_CONFIGS = {
  llama: {
    ...COMMON,
    architectures: ["LlamaForCausalLM"],
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 16,
    rms_norm_eps: 1e-5,
    max_position_embeddings: 32,
    rope_theta: 100,
  },
  mamba2: {
    ...COMMON,
    architectures: ["Mamba2ForCausalLM"],
    num_hidden_layers: 2,
    expand: 2,
    num_heads: 4,
    head_dim: 16,
    n_groups: 2,
    state_size: 8,
    conv_kernel: 4,
    layer_norm_epsilon: 1e-5,
  },
  bamba: {
    ...COMMON,
    architectures: ["BambaForCausalLM"],
    intermediate_size: 48,
    num_hidden_layers: 2,
    attn_layer_indices: [1],
    num_attention_heads: 2,
    num_key_value_heads: 1,
    rms_norm_eps: 1e-5,
    max_position_embeddings: 32,
    rope_theta: 100,
    mamba_n_heads: 4,
    mamba_d_head: 16,
    mamba_d_state: 8,
    mamba_d_conv: 4,
    mamba_n_groups: 1,
    mamba_expand: 2,
  },
};

export interface TinyModel {
  readonly rawConfig: object;
  readonly description: ModelDescription;
  readonly plan: ModelPlan;
  readonly layout: ParameterLayout;
  readonly weights: Float32Array<ArrayBuffer>;
}

/** A plan, and weights that are large enough for its attention to choose. */
export function tinyModel(family: keyof typeof TINY_CONFIGS): TinyModel {
  const rawConfig = TINY_CONFIGS[family];
  const description = describe(rawConfig);
  const plan = densePlan(description);
  const layout = new ParameterLayout(trainedParameters(plan));
  const weights = initialWeights(plan, layout, randomFor(5, "weights"));
  const random = randomFor(6, "weights");
  for (const { name, decays } of layout.places.values()) {
    const view = layout.view(weights, name);
    view.forEach((value, i) => view[i] = decays ? 8 * value : value + 0.5 * random());
  }
  return { rawConfig, description, plan, layout, weights };
}

/** The Llama, where a test needs just one model. */
export function tinyLlama(): TinyModel {
  return tinyModel("llama");
}

export const TINY: ModelConfig = tinyLlama().description.config;
