import { describe as suite, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { blockWidths } from "../compression/block_widths.ts";
import { randomNumbers } from "../compression/random_numbers.ts";
import { constantWeights } from "../compression/training/checkpoint_weights.ts";
import { ParameterLayout, trainedParameters } from "../compression/training/parameters.ts";
import { specOf } from "../models/block_tensors.ts";
import { openDecoder } from "../models/decoder.ts";
import { describe } from "../models/families/mod.ts";
import { blockMatrices, blockVectors, type ModelPlan, planModel } from "../models/plan.ts";
import { PRUNING_RATES } from "../models/widths.ts";
import { openRuntime } from "../onnx/mod.ts";
import { TINY_BAMBA, TINY_MAMBA2, TINY_NEMOTRON_H } from "./support/tiny_state_space.ts";

const TOKENS = Int32Array.from({ length: 12 }, (_, i) => (i * i * 7 + 3 * i) % 90);

for (const raw of [TINY_MAMBA2, TINY_NEMOTRON_H, TINY_BAMBA]) {
  suite(`A narrow ${raw.model_type}`, () => {
    const plan = planOfEveryRate(raw);
    const { places, weights } = randomParameters(plan);

    for (const [level, rate] of PRUNING_RATES.entries()) {
      // Uncut, both sides would be the same.
      if (level === 0) continue;
      it(`is the whole one with its tail masked, at once and step by step, at rate ${rate}`, async () => {
        const sliced = await logitsOf(plan, weights, { level, prefill: TOKENS.length });
        const masked = await logitsOf(plan, maskTails(plan, weights, level), { level: 0, prefill: TOKENS.length });
        const stepped = await logitsOf(plan, weights, { level, prefill: 5 });
        closeTo(sliced, masked);
        closeTo(stepped, masked);
        const whole = await logitsOf(plan, weights, { level: 0, prefill: TOKENS.length });
        const matrices = plan.layers.flat().flatMap((block) => blockMatrices(plan.config, block));
        const isCut = matrices.some(({ chunk }) => chunk.level < level);
        equal(differenceOf(whole, sliced) > 1e-2, isCut);
      });
    }

    function randomParameters(plan: ModelPlan) {
      const layout = new ParameterLayout(trainedParameters(plan));
      const flat = new Float32Array(layout.length);
      const random = randomNumbers(7);
      const weights = new Map<string, Float32Array<ArrayBuffer>>();
      for (const { name, shape } of layout.places.values()) {
        const scale = shape.length === 2 ? 2 / Math.sqrt(shape[1]!) : 1;
        weights.set(name, layout.view(flat, name).map(() => scale * (2 * random() - 1)));
      }
      return { places: layout.places, weights };
    }

    /** The model at full width whose components beyond a level's widths are zero: their weights, and their convolution. */
    function maskTails(
      plan: ModelPlan,
      weights: ReadonlyMap<string, Float32Array<ArrayBuffer>>,
      level: number,
    ): Map<string, Float32Array<ArrayBuffer>> {
      const masked = new Map([...weights].map(([name, data]) => [name, data.slice()]));
      for (const block of plan.layers.flat()) {
        for (const { matrix: { name }, chunk } of blockMatrices(plan.config, block)) {
          if (chunk.level < level) masked.get(`${name}.weight`)!.fill(0);
        }
        for (const { name, length } of blockVectors(plan.config, block)) {
          if (!/conv_(x|bc)/.test(name) || block.kind !== "mamba") continue;
          const [full, kept] = name.includes("conv_x")
            ? [block.widths[0]!, block.widths[level]!]
            : [block.stateWidths[0]!, block.stateWidths[level]!];
          const heads = name.includes("conv_x") ? plan.config.mamba!.numHeads : 2 * plan.config.mamba!.numGroups;
          const each = length / heads / full;
          const data = masked.get(name)!;
          for (let head = 0; head < heads; head++) {
            data.fill(0, (head * full + kept) * each, (head + 1) * full * each);
          }
        }
      }
      ok(masked.size === places.size);
      return masked;
    }
  });
}

/** The model cut alike in every layer at every prepared rate. */
function planOfEveryRate(raw: object): ModelPlan {
  const { config, layers } = describe(raw);
  const widths = blockWidths(config, layers, layers.map(() => 0), {
    recipe: { layerRates: "uniform", influenceTemperature: 0.1 },
    blockSize: 32,
    rates: PRUNING_RATES,
  });
  return planModel(config, layers.map((blocks, i) => blocks.map((block, j) => specOf(block, widths[i]![j]!))));
}

async function logitsOf(
  plan: ModelPlan,
  weights: ReadonlyMap<string, Float32Array<ArrayBuffer>>,
  { level, prefill }: { level: number; prefill: number },
): Promise<Float32Array> {
  using decoder = await openDecoder(openRuntime(), {
    plan,
    weights: constantWeights(weights, plan),
    folder: ".",
    lanes: 1,
    maxTokens: 16,
    maxRows: 16,
    threads: 1,
  });
  const sequence = decoder.openSequence(level);
  let logits = (await decoder.step([{ sequence, tokens: TOKENS.subarray(0, prefill), logits: "last" }]))[0]!.slice();
  for (const token of TOKENS.subarray(prefill)) {
    logits = (await decoder.step([{ sequence, tokens: [token], logits: "last" }]))[0]!.slice();
  }
  return logits;
}

/** The largest difference, as a share of the largest expected value. */
function differenceOf(actual: Float32Array, expected: Float32Array): number {
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return expected.reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i]!)), 0) / scale;
}

function closeTo(actual: Float32Array, expected: Float32Array): void {
  const error = differenceOf(actual, expected);
  ok(error <= 1e-4, `relative error ${error}`);
}
