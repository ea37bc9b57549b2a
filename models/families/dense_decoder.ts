import type { Block, LinearNames, ModelConfig, ModelDescription } from "../description.ts";
import { attentionProblems, Count, LayerCount, throwProblems } from "./fields.ts";
import { ropeFields, ropeOf } from "./rope.ts";
import { tokenFields, tokenIdsOf } from "./token_ids.ts";
import { z } from "zod";

/**
 * What the configurations of Llama and its relatives have in common, under Hugging Face's names. Other keys may stand
 * beside these. The defaults are those of transformers, for fields that older files leave out.
 */
export const denseDecoderFields = {
  hidden_size: Count,
  intermediate_size: Count,
  num_hidden_layers: LayerCount,
  num_attention_heads: Count,
  num_key_value_heads: Count.nullish(),
  head_dim: Count.nullish(),
  ...tokenFields,
  rms_norm_eps: z.number().positive().max(1),
  max_position_embeddings: Count,
  hidden_act: z.literal("silu", { error: 'only "silu" is supported' }).default("silu"),
  tie_word_embeddings: z.boolean().default(false),
  quantization_config: z.null({ error: "the checkpoint is quantized already; wanted one with float weights" })
    .optional(),
  ...ropeFields,
};

const DenseDecoderConfig = z.looseObject(denseDecoderFields);
export type DenseDecoderConfig = z.output<typeof DenseDecoderConfig>;

/** How the members of the family differ. */
export interface DenseDecoderTraits {
  readonly family: ModelConfig["family"];
  /** Which attention projections have a bias. */
  readonly biases: readonly ("q_proj" | "k_proj" | "v_proj" | "o_proj")[];
}

/**
 * Describes a decoder whose every layer is RoPE attention and a gated MLP, with Llama's tensor names.
 *
 * @throws {RangeError} If the numbers contradict each other; the message names the fields, all of them.
 */
export function describeDenseDecoder(
  raw: DenseDecoderConfig,
  { family, biases }: DenseDecoderTraits,
): ModelDescription {
  const heads = raw.num_attention_heads;
  const keyValueHeads = raw.num_key_value_heads ?? heads;
  const headDim = raw.head_dim ?? raw.hidden_size / heads;
  const { bosTokenId, eosTokenIds, problems: tokenProblems } = tokenIdsOf(raw);

  const problems = attentionProblems(heads, keyValueHeads);
  if (!Number.isInteger(headDim)) {
    problems.push(
      `num_attention_heads: ${heads} does not divide hidden_size ${raw.hidden_size}, and head_dim is absent`,
    );
  } else if (headDim % 2 !== 0) {
    problems.push(`head_dim: ${headDim} is odd, and RoPE turns pairs`);
  }
  problems.push(...tokenProblems);
  throwProblems(problems);

  return {
    config: {
      family,
      hiddenSize: raw.hidden_size,
      intermediateSize: raw.intermediate_size,
      numHiddenLayers: raw.num_hidden_layers,
      numAttentionHeads: heads,
      numKeyValueHeads: keyValueHeads,
      headDim,
      vocabSize: raw.vocab_size,
      rmsNormEps: raw.rms_norm_eps,
      maxPositionEmbeddings: raw.max_position_embeddings,
      rope: ropeOf(raw),
      tieWordEmbeddings: raw.tie_word_embeddings,
      bosTokenId,
      eosTokenIds,
    },
    embedding: "model.embed_tokens.weight",
    layers: Array.from({ length: raw.num_hidden_layers }, (_, index) => layer(`model.layers.${index}`, biases)),
    finalNorm: "model.norm.weight",
    head: raw.tie_word_embeddings ? null : "lm_head.weight",
  };
}

function layer(prefix: string, biases: DenseDecoderTraits["biases"]): Block[] {
  const projection = (name: DenseDecoderTraits["biases"][number]): LinearNames => {
    const path = `${prefix}.self_attn.${name}`;
    return biases.includes(name) ? { weight: `${path}.weight`, bias: `${path}.bias` } : { weight: `${path}.weight` };
  };
  return [
    {
      kind: "attention",
      norm: `${prefix}.input_layernorm.weight`,
      query: projection("q_proj"),
      key: projection("k_proj"),
      value: projection("v_proj"),
      output: projection("o_proj"),
    },
    {
      kind: "gatedMlp",
      norm: `${prefix}.post_attention_layernorm.weight`,
      gate: { weight: `${prefix}.mlp.gate_proj.weight` },
      up: { weight: `${prefix}.mlp.up_proj.weight` },
      down: { weight: `${prefix}.mlp.down_proj.weight` },
    },
  ];
}
