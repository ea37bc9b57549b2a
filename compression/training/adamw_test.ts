import { describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openRuntime } from "../../onnx/mod.ts";
import { AdamW, ADAMW_DEFAULTS } from "./adamw.ts";

/** More than one run's worth, so that chunks are crossed on both sides of the end of decay. */
const LENGTH = 150_000;
const DECAY_END = 100_000;

const random = xoroshiro128plus(11);
const uniform = () => Float32Array.from({ length: LENGTH }, () => 2 * uniformFloat64(random) - 1);

/** The formulas in float64, over plain arrays. */
class Reference {
  readonly mean = new Float64Array(LENGTH);
  readonly square = new Float64Array(LENGTH);

  step(weights: Float64Array, gradient: Float32Array, step: number, learningRate: number): void {
    const { beta1, beta2, epsilon, weightDecay, maxGradientNorm } = ADAMW_DEFAULTS;
    const norm = Math.sqrt(gradient.reduce((sum, value) => sum + value * value, 0));
    const scale = Math.min(1, maxGradientNorm / norm);
    for (let i = 0; i < LENGTH; i++) {
      const g = gradient[i]! * scale;
      this.mean[i] = beta1 * this.mean[i]! + (1 - beta1) * g;
      this.square[i] = beta2 * this.square[i]! + (1 - beta2) * g * g;
      const mean = this.mean[i]! / (1 - beta1 ** (step + 1));
      const square = this.square[i]! / (1 - beta2 ** (step + 1));
      const decay = i < DECAY_END ? weights[i]! * learningRate * weightDecay : 0;
      weights[i] = weights[i]! - decay - learningRate * mean / (Math.sqrt(square) + epsilon);
    }
  }
}

describe("AdamW", () => {
  it("takes the steps of its formulas, with clipping, and with decay where it is wanted", async () => {
    const weights = uniform();
    const gradient = new Float32Array(LENGTH);
    using optimizer = await AdamW.open(openRuntime(), { weights, gradient, decayEnd: DECAY_END, threads: 1 });
    const expected = Float64Array.from(weights);
    const reference = new Reference();
    for (const [step, size] of [1, 1e-3, 0.1].entries()) {
      gradient.set(uniform().map((value) => value * size)); // the second one is not clipped
      const learningRate = 0.01 * (step + 1);
      reference.step(expected, gradient, step, learningRate);
      const norm = await optimizer.step(step, learningRate);
      ok(Math.abs(norm / (size * Math.sqrt(LENGTH / 3)) - 1) < 0.01); // uniform in ±1 has a variance of 1/3
    }
    const furthest = weights.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0);
    ok(furthest < 1e-6, `${furthest}`); // float32 weights near 1 round by 6e-8 in each of three steps
  });

  it("leaves the weights alone at a learning rate of zero", async () => {
    const weights = uniform();
    const before = weights.slice();
    using optimizer = await AdamW.open(openRuntime(), {
      weights,
      gradient: uniform(),
      decayEnd: DECAY_END,
      threads: 1,
    });
    await optimizer.step(0, 0);
    equal(weights.findIndex((value, i) => value !== before[i]), -1);
  });
});
