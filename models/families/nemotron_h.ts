import type { Block, LinearNames, ModelDescription } from "../description.ts";
import { attentionProblems, Count, throwProblems } from "./fields.ts";
import { mambaBlock, mambaProblems, NO_BIAS, SILU, TimeStepLimit } from "./mamba_mixer.ts";
import { tokenFields, tokenIdsOf } from "./token_ids.ts";
import { z } from "zod";

const Mixer = z.enum(["mamba", "attention", "mlp"]);
type Mixer = z.output<typeof Mixer>;

const MIXERS = new Map<string, Mixer>([["M", "mamba"], ["*", "attention"], ["-", "mlp"]]);

/** One mixer per layer: in older files a letter each, in newer ones a word. */
const Pattern = z.string().min(1).regex(/^[M*-]+$/, {
  error: "only M (Mamba), * (attention) and - (MLP) are supported",
}).transform((pattern) => [...pattern].map((letter) => MIXERS.get(letter)!));
const BlockTypes = z.array(
  z.preprocess(
    (name) => name === "linear_attention" ? "mamba" : name === "full_attention" ? "attention" : name,
    Mixer,
  ),
  { error: "only mamba, attention and mlp are supported" },
).min(1);

/** Nemotron-H: layers of one mixer, Mamba, attention without positions, or an MLP of squared ReLU. */
export const NemotronHConfig = z.looseObject({
  ...tokenFields,
  hidden_size: Count,
  intermediate_size: Count,
  hybrid_override_pattern: Pattern.nullish(),
  layers_block_type: BlockTypes.nullish(),
  num_hidden_layers: Count.nullish(),
  num_attention_heads: Count,
  num_key_value_heads: Count.nullish(),
  head_dim: Count.nullish(),
  attention_head_dim: Count.nullish(),
  max_position_embeddings: Count,
  sliding_window: z.null({ error: "sliding windows are not supported" }).optional(),
  mamba_num_heads: Count,
  mamba_head_dim: Count,
  n_groups: Count,
  ssm_state_size: Count,
  conv_kernel: Count.default(4),
  chunk_size: Count.default(128),
  time_step_min: z.number().nonnegative().default(0.001),
  time_step_limit: TimeStepLimit.nullish(),
  layer_norm_epsilon: z.number().positive().max(1).default(1e-5),
  use_conv_bias: z.boolean().default(true),
  use_bias: NO_BIAS,
  mamba_proj_bias: NO_BIAS,
  mlp_bias: NO_BIAS,
  attention_bias: z.boolean().default(false),
  mlp_hidden_act: z.literal("relu2", { error: 'only "relu2" is supported' }).default("relu2"),
  mamba_hidden_act: SILU,
  num_nextn_predict_layers: z.literal(0, { error: "prediction of several tokens is not supported" }).nullish(),
  tie_word_embeddings: z.boolean().default(false),
}).transform((raw): ModelDescription => {
  const { bosTokenId, eosTokenIds, problems } = tokenIdsOf(raw);
  const mixers = raw.layers_block_type ?? raw.hybrid_override_pattern ?? [];
  const heads = raw.num_attention_heads;
  const keyValueHeads = raw.num_key_value_heads ?? heads;
  const mamba = {
    numHeads: raw.mamba_num_heads,
    headDim: raw.mamba_head_dim,
    numGroups: raw.n_groups,
    stateSize: raw.ssm_state_size,
    convKernel: raw.conv_kernel,
    chunkSize: raw.chunk_size,
    // transformers takes the least step from here and has no greatest, whatever time_step_limit says.
    timeStepLimit: [raw.time_step_min, null] as const,
  };
  problems.push(
    ...mambaProblems(mamba, { numHeads: "mamba_num_heads", numGroups: "n_groups", convKernel: "conv_kernel" }),
  );
  if (mixers.length === 0) problems.push("hybrid_override_pattern: nothing found, nor layers_block_type");
  problems.push(...attentionProblems(heads, keyValueHeads));
  const headDim = raw.head_dim ?? raw.attention_head_dim ?? raw.hidden_size / heads;
  if (!Number.isInteger(headDim)) {
    problems.push("head_dim: nothing found, and num_attention_heads does not divide hidden_size");
  }
  throwProblems(problems);

  return {
    config: {
      family: "nemotron_h",
      hiddenSize: raw.hidden_size,
      intermediateSize: raw.intermediate_size,
      numHiddenLayers: mixers.length,
      numAttentionHeads: heads,
      numKeyValueHeads: keyValueHeads,
      headDim,
      mamba,
      vocabSize: raw.vocab_size,
      rmsNormEps: raw.layer_norm_epsilon,
      maxPositionEmbeddings: raw.max_position_embeddings,
      rope: { theta: 10_000, scaling: null, rotaryDim: 0 },
      tieWordEmbeddings: raw.tie_word_embeddings,
      bosTokenId,
      eosTokenIds,
    },
    embedding: "backbone.embeddings.weight",
    layers: mixers.map((mixer, index) => [blockOf(mixer, `backbone.layers.${index}`, raw)]),
    finalNorm: "backbone.norm_f.weight",
    head: raw.tie_word_embeddings ? null : "lm_head.weight",
  };
});

function blockOf(
  kind: Mixer,
  layer: string,
  options: { use_conv_bias: boolean; attention_bias: boolean },
): Block {
  const norm = `${layer}.norm.weight`;
  const mixer = `${layer}.mixer`;
  const projection = (name: string): LinearNames => ({
    weight: `${mixer}.${name}.weight`,
    ...(options.attention_bias && { bias: `${mixer}.${name}.bias` }),
  });
  switch (kind) {
    case "mamba":
      return mambaBlock(norm, mixer, { convBias: options.use_conv_bias });
    case "attention":
      return {
        kind,
        norm,
        query: projection("q_proj"),
        key: projection("k_proj"),
        value: projection("v_proj"),
        output: projection("o_proj"),
      };
    case "mlp":
      return {
        kind,
        norm,
        up: { weight: `${mixer}.up_proj.weight` },
        down: { weight: `${mixer}.down_proj.weight` },
      };
    default:
      return kind satisfies never;
  }
}
