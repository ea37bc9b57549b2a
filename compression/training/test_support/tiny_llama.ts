import { densePlan } from "../../../models/block_tensors.ts";
import type { ModelConfig } from "../../../models/description.ts";
import { describe } from "../../../models/families/mod.ts";
import type { ModelPlan } from "../../../models/plan.ts";
import { initialWeights } from "../initialization.ts";
import { llamaConfig } from "../llama_checkpoint.ts";
import { ParameterLayout, trainedParameters } from "../parameters.ts";
import { randomFor } from "../random.ts";

/** A model that is big enough for every part to count, and small enough for differences: for tests. */
export const TINY: ModelConfig = {
  family: "llama",
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 16,
  vocabSize: 40,
  rmsNormEps: 1e-5,
  maxPositionEmbeddings: 32,
  rope: { theta: 100, scaling: null },
  tieWordEmbeddings: true,
  bosTokenId: 0,
  eosTokenIds: [0],
};

/** The plan of `TINY`, and weights that are large enough for its attention to choose. */
export function tinyLlama(): { plan: ModelPlan; layout: ParameterLayout; weights: Float32Array<ArrayBuffer> } {
  const plan = densePlan(describe(llamaConfig(TINY)));
  const layout = new ParameterLayout(trainedParameters(plan));
  const weights = initialWeights(plan, layout, randomFor(5, "weights"));
  const random = randomFor(6, "weights");
  for (const { name, decays } of layout.places.values()) {
    const view = layout.view(weights, name);
    view.forEach((value, i) => view[i] = decays ? 8 * value : value + 0.5 * random());
  }
  return { plan, layout, weights };
}
