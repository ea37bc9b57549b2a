import type { ModelPlan } from "../../models/plan.ts";
import type { ParameterLayout } from "./parameters.ts";

/** Standard deviation of the initial matrices, the usual one of small language models. */
const DEVIATION = 0.02;

type Start = (random: () => number, index: number, length: number) => number;

/** Steps Δ that the heads of a Mamba block begin with, from the first to the last, evenly on a logarithmic scale. */
const [SHORTEST_STEP, LONGEST_STEP] = [1e-3, 1e-1];

/**
 * What vectors start with, by the end of their name: those of a Mamba block as its authors chose them, though spread over
 * the heads evenly instead of at random. Other vectors are biases, which start at zero.
 */
const VECTORS: readonly (readonly [part: string, start: Start])[] = [
  ["norm", () => 1],
  [".skip", () => 1],
  [".conv_x", (random) => random() - 0.5],
  [".conv_bc", (random) => random() - 0.5],
  [".a_log", (_random, head) => Math.log(1 + head)],
  [".dt_bias", (_random, head, heads) => {
    const step = SHORTEST_STEP * (LONGEST_STEP / SHORTEST_STEP) ** (heads === 1 ? 0 : head / (heads - 1));
    return Math.log(Math.expm1(step)); // softplus of it is the step
  }],
];

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
      const [, start] = VECTORS.find(([part]) => name.endsWith(part)) ?? [];
      if (start !== undefined) view.forEach((_, i) => view[i] = start(random, i, view.length));
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
