import type { ModelPlan } from "../../models/plan.ts";
import type { ParameterLayout } from "./parameters.ts";

/** Standard deviation of the initial matrices, the usual one of small language models. */
const DEVIATION = 0.02;

/**
 * Weights to start from: norms are one, biases zero, matrices normally distributed; those that write to the residual stream
 * are smaller, by the root of how many write there, so that its variance does not grow with the depth.
 *
 * @param random Uniform in [0, 1).
 */
export function initialWeights(
  plan: ModelPlan,
  layout: ParameterLayout,
  random: () => number,
): Float32Array<ArrayBuffer> {
  const writers = Math.sqrt(plan.layers.flat().length);
  const weights = new Float32Array(layout.length);
  for (const { name, decays } of layout.places.values()) {
    const view = layout.view(weights, name);
    if (!decays) {
      view.fill(name.endsWith("norm") ? 1 : 0);
      continue;
    }
    const deviation = /\.(output|down)\./.test(name) ? DEVIATION / writers : DEVIATION;
    for (let i = 0; i < view.length; i++) view[i] = deviation * normal(random);
  }
  return weights;
}

/** One draw from the normal distribution (Box and Muller). */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}
