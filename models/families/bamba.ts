import type { Block, LinearNames, ModelDescription } from "../description.ts";
import { attentionProblems, Count, LayerCount, throwProblems } from "./fields.ts";
import { mambaBlock, mambaProblems, NO_BIAS, SILU, TimeStepLimit } from "./mamba_mixer.ts";
import { halfRopeFields, ropeOf } from "./rope.ts";
import { tokenFields, tokenIdsOf } from "./token_ids.ts";
import { z } from "zod";

/** RoPE turns the first half of a head; transformers does so whatever the file says. */
const ROTARY_FACTOR = 0.5;

/** Bamba: in every layer a Mamba mixer, or in a few attention, and a gated MLP. */
export const BambaConfig = z.looseObject({
  ...tokenFields,
  ...halfRopeFields,
  hidden_size: Count,
  intermediate_size: Count,
  num_hidden_layers: LayerCount,
  num_attention_heads: Count,
  num_key_value_heads: Count.nullish(),
  head_dim: Count.nullish(),
  attn_rotary_emb: Count.nullish(),
  attn_layer_indices: z.array(z.int().nonnegative()).nullish(),
  max_position_embeddings: Count,
  rms_norm_eps: z.number().positive().max(1).default(1e-5),
  mamba_n_heads: Count.default(128),
  mamba_d_head: z.union([Count, z.literal("auto")]).default("auto"),
  mamba_n_groups: Count.default(1),
  mamba_d_state: Count.default(256),
  mamba_d_conv: Count.default(4),
  mamba_expand: z.number().positive().default(2),
  mamba_chunk_size: Count.default(256),
  mamba_conv_bias: z.boolean().default(true),
  mamba_proj_bias: NO_BIAS,
  time_step_limit: TimeStepLimit.nullish(),
  attention_bias: z.boolean().default(false),
  mlp_bias: NO_BIAS,
  hidden_act: SILU,
  tie_word_embeddings: z.boolean().default(false),
}).transform((raw): ModelDescription => {
  const { bosTokenId, eosTokenIds, problems } = tokenIdsOf(raw);
  const heads = raw.num_attention_heads;
  const keyValueHeads = raw.num_key_value_heads ?? heads;
  const headDim = raw.head_dim ?? raw.hidden_size / heads;
  const rotaryDim = headDim * ROTARY_FACTOR;
  const inner = raw.mamba_expand * raw.hidden_size;
  const mamba = {
    numHeads: raw.mamba_n_heads,
    headDim: raw.mamba_d_head === "auto" ? inner / raw.mamba_n_heads : raw.mamba_d_head,
    numGroups: raw.mamba_n_groups,
    stateSize: raw.mamba_d_state,
    convKernel: raw.mamba_d_conv,
    chunkSize: raw.mamba_chunk_size,
    timeStepLimit: raw.time_step_limit ?? [0, null] as const,
  };
  problems.push(
    ...mambaProblems(mamba, { numHeads: "mamba_n_heads", numGroups: "mamba_n_groups", convKernel: "mamba_d_conv" }),
  );
  if (mamba.numHeads * mamba.headDim !== inner) {
    problems.push(
      `mamba_d_head: ${mamba.headDim} · ${mamba.numHeads} heads is not mamba_expand · hidden_size ${inner}`,
    );
  }
  problems.push(...attentionProblems(heads, keyValueHeads));
  if (headDim % 4 !== 0) problems.push(`head_dim: ${headDim} has no half of rotary pairs`);
  if (![null, undefined, rotaryDim].includes(raw.attn_rotary_emb)) {
    problems.push(`attn_rotary_emb: ${raw.attn_rotary_emb} is not half of the head's ${headDim}`);
  }
  const attentionLayers = raw.attn_layer_indices ?? [];
  for (const index of attentionLayers) {
    if (index >= raw.num_hidden_layers) problems.push(`attn_layer_indices: there is no layer ${index}`);
  }
  throwProblems(problems);

  return {
    config: {
      family: "bamba",
      hiddenSize: raw.hidden_size,
      intermediateSize: raw.intermediate_size,
      numHiddenLayers: raw.num_hidden_layers,
      numAttentionHeads: heads,
      numKeyValueHeads: keyValueHeads,
      headDim,
      mamba,
      vocabSize: raw.vocab_size,
      rmsNormEps: raw.rms_norm_eps,
      maxPositionEmbeddings: raw.max_position_embeddings,
      rope: { ...ropeOf(raw), rotaryDim },
      tieWordEmbeddings: raw.tie_word_embeddings,
      bosTokenId,
      eosTokenIds,
    },
    embedding: "model.embed_tokens.weight",
    layers: Array.from(
      { length: raw.num_hidden_layers },
      (_, index) => layer(`model.layers.${index}`, raw, attentionLayers.includes(index)),
    ),
    finalNorm: "model.final_layernorm.weight",
    head: raw.tie_word_embeddings ? null : "lm_head.weight",
  };
});

function layer(
  prefix: string,
  options: { mamba_conv_bias: boolean; attention_bias: boolean },
  hasAttention: boolean,
): Block[] {
  const norm = `${prefix}.input_layernorm.weight`;
  const projection = (name: string): LinearNames => ({
    weight: `${prefix}.self_attn.${name}.weight`,
    ...(options.attention_bias && { bias: `${prefix}.self_attn.${name}.bias` }),
  });
  const mixer: Block = hasAttention
    ? {
      kind: "attention",
      norm,
      query: projection("q_proj"),
      key: projection("k_proj"),
      value: projection("v_proj"),
      output: projection("o_proj"),
    }
    : mambaBlock(norm, `${prefix}.mamba`, { convBias: options.mamba_conv_bias });
  return [mixer, {
    kind: "gatedMlp",
    norm: `${prefix}.pre_ff_layernorm.weight`,
    gate: { weight: `${prefix}.feed_forward.gate_proj.weight` },
    up: { weight: `${prefix}.feed_forward.up_proj.weight` },
    down: { weight: `${prefix}.feed_forward.down_proj.weight` },
  }];
}
