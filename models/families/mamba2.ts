import type { ModelDescription } from "../description.ts";
import { Count, LayerCount, throwProblems } from "./fields.ts";
import { mambaBlock, mambaProblems, NO_ATTENTION_OR_MLP, NO_BIAS, SILU, TimeStepLimit } from "./mamba_mixer.ts";
import { tokenFields, tokenIdsOf } from "./token_ids.ts";
import { z } from "zod";

/** Such a model has no longest sequence; this bounds what is counted in tokens. */
const LONGEST_SEQUENCE = 1_048_576;

/** Mamba-2 alone, a mixer in every layer. The defaults are those of transformers. */
export const Mamba2Config = z.looseObject({
  ...tokenFields,
  hidden_size: Count,
  num_hidden_layers: LayerCount,
  num_heads: Count.default(128),
  head_dim: Count.default(64),
  n_groups: Count.default(8),
  state_size: Count.default(128),
  conv_kernel: Count.default(4),
  expand: z.number().positive().default(2),
  chunk_size: Count.default(256),
  time_step_limit: TimeStepLimit.default([0, null]),
  layer_norm_epsilon: z.number().positive().max(1).default(1e-5),
  use_conv_bias: z.boolean().default(true),
  use_bias: NO_BIAS,
  hidden_act: SILU,
  rms_norm: z.literal(true, { error: "mixers without the gated norm are not supported" }).default(true),
  // mamba_ssm's name; transformers has one number per head.
  D_has_hdim: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
}).transform((raw): ModelDescription => {
  const { bosTokenId, eosTokenIds, problems } = tokenIdsOf(raw);
  const mamba = {
    numHeads: raw.num_heads,
    headDim: raw.head_dim,
    numGroups: raw.n_groups,
    stateSize: raw.state_size,
    convKernel: raw.conv_kernel,
    chunkSize: raw.chunk_size,
    timeStepLimit: raw.time_step_limit,
  };
  problems.push(
    ...mambaProblems(mamba, { numHeads: "num_heads", numGroups: "n_groups", convKernel: "conv_kernel" }),
  );
  if (raw.expand * raw.hidden_size !== raw.num_heads * raw.head_dim) {
    problems.push(
      `expand: ${raw.expand} · hidden_size ${raw.hidden_size} is not num_heads ${raw.num_heads} · head_dim ${raw.head_dim}`,
    );
  }
  throwProblems(problems);

  return {
    config: {
      ...NO_ATTENTION_OR_MLP,
      family: "mamba2",
      hiddenSize: raw.hidden_size,
      numHiddenLayers: raw.num_hidden_layers,
      mamba,
      vocabSize: raw.vocab_size,
      rmsNormEps: raw.layer_norm_epsilon,
      maxPositionEmbeddings: LONGEST_SEQUENCE,
      tieWordEmbeddings: raw.tie_word_embeddings,
      bosTokenId,
      eosTokenIds,
    },
    embedding: "backbone.embeddings.weight",
    layers: Array.from({ length: raw.num_hidden_layers }, (_, index) => {
      const layer = `backbone.layers.${index}`;
      return [mambaBlock(`${layer}.norm.weight`, `${layer}.mixer`, {
        convBias: raw.use_conv_bias,
        skipPerChannel: raw.D_has_hdim,
      })];
    }),
    finalNorm: "backbone.norm_f.weight",
    head: raw.tie_word_embeddings ? null : "lm_head.weight",
  };
});
