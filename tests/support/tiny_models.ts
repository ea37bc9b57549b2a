import type { ModelConfig } from "../../models/description.ts";

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
