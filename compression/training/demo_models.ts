import type { BatchShape } from "./loss.ts";

/** A model that is small enough to be trained here, and how. */
export interface DemoModel {
  /** Its `config.json`, under Hugging Face's names. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly batch: BatchShape;
  readonly peakLearningRate: number;
}

const COMMON = {
  vocab_size: 2048,
  bos_token_id: 0,
  eos_token_id: 0,
  initializer_range: 0.02,
  tie_word_embeddings: true,
  torch_dtype: "float32",
  use_cache: true,
};
const SHORT_WINDOWS = { batch: { sequences: 8, length: 128 }, peakLearningRate: 2e-3 };

/** What `train_demo.ts` trains, by family. */
export const DEMO_MODELS = {
  /** 4.7 M parameters: what two cores train in under an hour. */
  llama: {
    config: {
      ...COMMON,
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      attention_bias: false,
      attention_dropout: 0,
      mlp_bias: false,
      head_dim: 64,
      hidden_act: "silu",
      hidden_size: 256,
      intermediate_size: 640,
      max_position_embeddings: 512,
      num_attention_heads: 4,
      num_hidden_layers: 6,
      num_key_value_heads: 2,
      rms_norm_eps: 1e-5,
      rope_scaling: null,
      rope_theta: 10_000,
    },
    batch: { sequences: 8, length: 256 },
    peakLearningRate: 1.5e-3,
  },
  /** 1.9 M parameters; half a second a step. */
  mamba2: {
    config: {
      ...COMMON,
      architectures: ["Mamba2ForCausalLM"],
      model_type: "mamba2",
      chunk_size: 64,
      conv_kernel: 4,
      expand: 2,
      head_dim: 64,
      hidden_act: "silu",
      hidden_size: 192,
      layer_norm_epsilon: 1e-5,
      n_groups: 1,
      num_heads: 6,
      num_hidden_layers: 6,
      rms_norm: true,
      state_size: 64,
      use_bias: false,
      use_conv_bias: true,
    },
    ...SHORT_WINDOWS,
  },
  /** 2.1 M parameters: three Mamba layers, one of attention, an MLP in each. */
  bamba: {
    config: {
      ...COMMON,
      architectures: ["BambaForCausalLM"],
      model_type: "bamba",
      attention_bias: false,
      attention_dropout: 0,
      attn_layer_indices: [2],
      attn_rotary_emb: 16,
      hidden_act: "silu",
      hidden_size: 192,
      intermediate_size: 384,
      mamba_chunk_size: 64,
      mamba_conv_bias: true,
      mamba_d_conv: 4,
      mamba_d_head: 64,
      mamba_d_state: 64,
      mamba_expand: 2,
      mamba_n_groups: 1,
      mamba_n_heads: 6,
      mamba_proj_bias: false,
      max_position_embeddings: 512,
      mlp_bias: false,
      num_attention_heads: 6,
      num_hidden_layers: 4,
      num_key_value_heads: 2,
      partial_rotary_factor: 0.5,
      rms_norm_eps: 1e-5,
      rope_scaling: null,
      rope_theta: 10_000,
    },
    ...SHORT_WINDOWS,
  },
} as const satisfies Readonly<Record<string, DemoModel>>;
