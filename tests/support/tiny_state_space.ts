/**
 * Configurations as `config.json` has them, small enough for plain loops, large enough that every axis is cut. Tokens are
 * those of `tiny_checkpoint.ts`.
 */

const COMMON = { hidden_size: 64, vocab_size: 96, bos_token_id: 1, eos_token_id: 2 };

/** Two groups of heads with states of their own, and a head that is the embedding. */
export const TINY_MAMBA2 = {
  ...COMMON,
  architectures: ["Mamba2ForCausalLM"],
  model_type: "mamba2",
  num_hidden_layers: 4,
  expand: 2,
  num_heads: 8,
  head_dim: 16,
  n_groups: 2,
  state_size: 16,
  conv_kernel: 4,
  chunk_size: 16,
  hidden_act: "silu",
  layer_norm_epsilon: 1e-5,
  use_bias: false,
  use_conv_bias: true,
  tie_word_embeddings: true,
};

/** One mixer a layer, no positions, an MLP without a gate, heads that do not fill the hidden size. */
export const TINY_NEMOTRON_H = {
  ...COMMON,
  architectures: ["NemotronHForCausalLM"],
  model_type: "nemotron_h",
  hybrid_override_pattern: "M-M*-",
  num_hidden_layers: 5,
  intermediate_size: 160,
  mlp_hidden_act: "relu2",
  mamba_num_heads: 6,
  mamba_head_dim: 16,
  n_groups: 2,
  ssm_state_size: 16,
  conv_kernel: 4,
  chunk_size: 16,
  time_step_min: 0.001,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 24,
  layer_norm_epsilon: 1e-5,
  max_position_embeddings: 256,
  use_bias: false,
  use_conv_bias: true,
  tie_word_embeddings: false,
};

/** Mamba and attention layers with an MLP in each, RoPE on half of a head. */
export const TINY_BAMBA = {
  ...COMMON,
  architectures: ["BambaForCausalLM"],
  model_type: "bamba",
  num_hidden_layers: 2,
  attn_layer_indices: [1],
  attn_rotary_emb: 16,
  intermediate_size: 160,
  hidden_act: "silu",
  mamba_expand: 2,
  mamba_n_heads: 8,
  mamba_d_head: 16,
  mamba_n_groups: 1,
  mamba_d_state: 16,
  mamba_d_conv: 4,
  mamba_chunk_size: 16,
  mamba_conv_bias: true,
  mamba_proj_bias: false,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  partial_rotary_factor: 0.5,
  rope_theta: 10_000,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 256,
  tie_word_embeddings: false,
};
