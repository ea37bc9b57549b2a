import type { Block, LinearNames, ModelConfig, ModelDescription } from "../description.ts";
import { attentionProblems, Count, LayerCount, throwProblems } from "./fields.ts";
import { ropeFields, ropeOf } from "./rope.ts";
import { tokenFields, tokenIdsOf } from "./token_ids.ts";
import { z } from "zod";

/** The activations that MLPs can have: SiLU comes with a gate, ReLU² without. */
const Activation = z.enum(["silu", "relu2"]);
type Activation = z.output<typeof Activation>;

/** The one activation that a family has. */
export function hiddenAct<Name extends Activation>(name: Name): z.ZodType<Name> {
  // Its output is the name itself, which zod cannot tell of a generic one.
  return z.literal(name, { error: `only "${name}" is supported` }).default(name as never);
}

/**
 * What the configurations of Llama and its relatives have in common, under Hugging Face's names. Other keys may stand
 * beside these, and `hidden_act` may be another. The defaults are those of transformers, for fields that older files leave
 * out.
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
  hidden_act: hiddenAct("silu"),
  tie_word_embeddings: z.boolean().default(false),
  quantization_config: z.null({ error: "the checkpoint is quantized already; wanted one with float weights" })
    .optional(),
  ...ropeFields,
};

const DenseDecoderConfig = z.looseObject({ ...denseDecoderFields, hidden_act: Activation });
export type DenseDecoderConfig = z.output<typeof DenseDecoderConfig>;

/** How the members of the family differ. */
export interface DenseDecoderTraits {
  readonly family: ModelConfig["family"];
  /** Which attention projections have a bias. */
  readonly biases: readonly ("q_proj" | "k_proj" | "v_proj" | "o_proj")[];
}

/**
 * Describes a decoder whose every layer is RoPE attention and an MLP, with Llama's tensor names.
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
    layers: Array.from(
      { length: raw.num_hidden_layers },
      (_, index) => layer(`model.layers.${index}`, biases, raw.hidden_act),
    ),
    finalNorm: "model.norm.weight",
    head: raw.tie_word_embeddings ? null : "lm_head.weight",
  };
}

function layer(prefix: string, biases: DenseDecoderTraits["biases"], activation: Activation): Block[] {
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
    mlp(prefix, activation),
  ];
}

function mlp(prefix: string, activation: Activation): Block {
  const norm = `${prefix}.post_attention_layernorm.weight`;
  const projection = (name: string): LinearNames => ({ weight: `${prefix}.mlp.${name}.weight` });
  const [up, down] = [projection("up_proj"), projection("down_proj")];
  switch (activation) {
    case "silu":
      return { kind: "gatedMlp", norm, gate: projection("gate_proj"), up, down };
    case "relu2":
      return { kind: "mlp", norm, up, down };
    default:
      return activation satisfies never;
  }
}
