import type { ModelConfig } from "../../models/description.ts";
import type { BlockPlan, ModelPlan } from "../../models/plan.ts";
import type { Recipe } from "../recipe.ts";
import { type Parameter, trainedParameters } from "../training/parameters.ts";
import { adaptedMatrices, adapterParameters } from "./adapters.ts";

/** How many numbers the adapters of a model are. @param plan Of one level, uncut. */
export function adapterSize(plan: ModelPlan, rank: number): number {
  return sizeOf(adapterParameters(plan, rank));
}

/**
 * Bytes that recovery takes at its worst moment, roughly: all weights in float32, adapters with their gradients and two means,
 * what the way back needs of every row, and the rows' distributions.
 */
export function recoveryMemory(plan: ModelPlan, { sequences, sequenceLength, rank }: Recipe["recovery"]): number {
  const { config, layers } = plan;
  const weights = sizeOf(trainedParameters(plan));
  const products = adaptedMatrices(plan).reduce(
    (sum, { inFeatures, outFeatures }) => sum + inFeatures + outFeatures,
    0,
  );
  const scores = layers.flat().reduce((sum, { kind }) => sum + sequenceLength * scoresOf(config, kind), 0);
  const perRow = KEPT_PER_PRODUCT * products + KEPT_PER_SCORE * scores + DISTRIBUTIONS * config.vocabSize;
  return 4 * (weights + 4 * adapterSize(plan, rank) + sequences * sequenceLength * perRow);
}

/** Copies of a row that are there at once, as measured on SmolLM2-135M with 4 sequences of 256 tokens. */
const [KEPT_PER_PRODUCT, KEPT_PER_SCORE, DISTRIBUTIONS] = [2, 2, 6];

/** Values of a block for every pair of tokens: attention's scores, or decays and what they weigh. */
function scoresOf({ numAttentionHeads, mamba }: ModelConfig, kind: BlockPlan["kind"]): number {
  if (kind === "mamba") return 2 * mamba!.numHeads;
  return kind === "attention" ? numAttentionHeads : 0;
}

function sizeOf(parameters: readonly Parameter[]): number {
  return parameters.reduce((sum, { shape }) => sum + shape.reduce((product, length) => product * length, 1), 0);
}
