import type { ModelConfig } from "../../models/description.ts";
import type { RandomArtefactOptions } from "../../models/random_artefact.ts";

/** Small enough for plain loops, large enough that every axis is cut: heads of 16 in halves, MLPs in blocks. */
export const TINY_LLAMA: ModelConfig = {
  family: "llama",
  hiddenSize: 64,
  intermediateSize: 256,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 32,
  vocabSize: 96,
  rmsNormEps: 1e-5,
  maxPositionEmbeddings: 256,
  rope: { theta: 10_000, scaling: null },
  tieWordEmbeddings: true,
  bosTokenId: 1,
  eosTokenIds: [2],
};

/** Biases, an untied head, one key/value head per query head, scaled RoPE, and channels that no block divides. */
export const TINY_QWEN: ModelConfig = {
  ...TINY_LLAMA,
  family: "qwen2",
  intermediateSize: 172,
  numKeyValueHeads: 4,
  headDim: 16,
  rmsNormEps: 1e-6,
  rope: {
    theta: 1_000_000,
    scaling: { kind: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 32 },
  },
  tieWordEmbeddings: false,
};

/** Mamba mixers alone, B and C shared by halves of the heads. */
export const TINY_MAMBA2: ModelConfig = {
  family: "mamba2",
  hiddenSize: 64,
  intermediateSize: 0,
  numHiddenLayers: 2,
  numAttentionHeads: 0,
  numKeyValueHeads: 0,
  headDim: 0,
  mamba: {
    numHeads: 4,
    headDim: 32,
    numGroups: 2,
    stateSize: 16,
    convKernel: 4,
    chunkSize: 8,
    timeStepLimit: [0, null],
  },
  vocabSize: 96,
  rmsNormEps: 1e-5,
  maxPositionEmbeddings: 256,
  rope: { theta: 10_000, scaling: null, rotaryDim: 0 },
  tieWordEmbeddings: false,
  bosTokenId: 1,
  eosTokenIds: [2],
};

/** Mamba, then attention without positions, then an MLP without a gate, each a layer; limits on the time step. */
export const TINY_NEMOTRON_H: ModelConfig = {
  ...TINY_MAMBA2,
  family: "nemotron_h",
  intermediateSize: 172,
  numHiddenLayers: 4,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 32,
  mamba: { ...TINY_MAMBA2.mamba!, numHeads: 6, headDim: 16, timeStepLimit: [0.02, 0.05] },
};

/** Mamba and attention in turn, each with a gated MLP; half of every attention head is rotary. */
export const TINY_BAMBA: ModelConfig = {
  ...TINY_NEMOTRON_H,
  family: "bamba",
  numHiddenLayers: 2,
  mamba: { ...TINY_MAMBA2.mamba!, numGroups: 1 },
  rope: { theta: 10_000, scaling: null, rotaryDim: 16 },
  tieWordEmbeddings: true,
};

/** Every family as random artefacts are made of it. */
export const TINY_ARTEFACTS: Readonly<
  Record<string, Pick<RandomArtefactOptions, "config" | "attentionBiases" | "layers">>
> = {
  llama: { config: TINY_LLAMA },
  qwen2: { config: TINY_QWEN, attentionBiases: true },
  mamba2: { config: TINY_MAMBA2 },
  nemotron_h: { config: TINY_NEMOTRON_H, layers: [["mamba"], ["attention"], ["mlp"], ["mamba"]] },
  bamba: { config: TINY_BAMBA, layers: [["mamba", "gatedMlp"], ["attention", "gatedMlp"]] },
};
