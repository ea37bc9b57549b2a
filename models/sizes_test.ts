import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import type { ModelConfig } from "./description.ts";
import { hasAttentionBiases, KNOWN_SHAPES, type ShapeName } from "./known_shapes.ts";
import { type ModelPlan, planAtLevel, planModel } from "./plan.ts";
import { SAFETENSORS_DTYPES } from "./safetensors.ts";
import { variantSize } from "./sizes.ts";
import { storedTensors } from "./stored_tensors.ts";
import { keptWidth, PRUNING_RATES, quantaFor } from "./widths.ts";

/** A known model, every layer at the global rate. */
function knownPlan(name: ShapeName, blockSize: number, rates?: readonly number[]): ModelPlan {
  return uniformPlan(KNOWN_SHAPES[name], blockSize, { biased: hasAttentionBiases(name), ...(rates && { rates }) });
}

/** Every layer at the global rate. */
function uniformPlan(
  config: ModelConfig,
  blockSize: number,
  { biased = false, rates = PRUNING_RATES }: { biased?: boolean; rates?: readonly number[] } = {},
): ModelPlan {
  const quanta = quantaFor({ ...config, blockSize });
  const widths = (full: number, quantum: number) => rates.map((rate) => keptWidth(full, rate, quantum));
  return planModel(
    config,
    Array.from({ length: config.numHiddenLayers }, () =>
      config.mamba
        ? [{
          kind: "mamba",
          widths: widths(config.mamba.headDim, quanta.mambaHead),
          stateWidths: widths(config.mamba.stateSize, quanta.mambaState),
          convBias: true,
          skipPerChannel: false,
        }]
        : [
          { kind: "attention", widths: widths(config.headDim, quanta.head), queryKeyBias: biased, outputBias: biased },
          { kind: "gatedMlp", widths: widths(config.intermediateSize, quanta.mlp) },
        ]),
  );
}

/** Counted from the list of tensors that the file of that one level would have. */
function countedBytes(plan: ModelPlan, level: number, blockSize: number): number {
  return storedTensors(planAtLevel(plan, level), blockSize).reduce(
    (sum, { dtype, shape }) => sum + shape.reduce((product, size) => product * size, SAFETENSORS_DTYPES[dtype]),
    0,
  );
}

/**
 * 10⁹ bytes in UniQL's own layout (uniql.md §6): one scale per row of the embedding and one per 128 weights elsewhere,
 * every linear layer by itself and filled up to whole tiles of 256 × 128, norms and biases in float16.
 */
function publishedGigabytes({ config, layers }: ModelPlan, level: number): number {
  const { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, vocabSize: V } = config;
  const filled = (size: number, tile: number) => Math.ceil(size / tile) * tile;
  const linear = (outFeatures: number, inFeatures: number, bias = false) => {
    const [rows, columns] = [filled(outFeatures, 256), filled(inFeatures, 128)];
    return rows * columns / 2 + 2 * rows * columns / 128 + (bias ? 2 * outFeatures : 0);
  };
  const blocks = layers.flat().map((block) => {
    const width = block.widths[level]!;
    if (block.kind === "gatedMlp") return 2 * linear(width, D) + linear(D, width);
    if (block.kind !== "attention") throw new TypeError(`No published size of a ${block.kind} block`);
    const biased = block.queryKeyBias;
    return linear(H * width, D, biased) + 2 * linear(G * width, D, biased) + linear(D, H * width);
  });
  const outer = V * D / 2 + 2 * V + linear(V, D) + 2 * D * (blocks.length + 1);
  return blocks.reduce((sum, bytes) => sum + bytes, outer) / 1e9;
}

describe("variantSize()", () => {
  for (const name of Object.keys(KNOWN_SHAPES) as ShapeName[]) {
    it(`counts the tensors of ${name}, and less of everything at every wider cut`, () => {
      const plan = knownPlan(name, 128);
      const sizes = PRUNING_RATES.map((_, level) => variantSize(plan, level, 128));
      sizes.forEach(({ bytes }, level) => equal(bytes, countedBytes(plan, level, 128)));
      sizes.slice(1).forEach((size, i) => {
        const wider = sizes[i]!;
        ok(size.parameters < wider.parameters && size.bytes < wider.bytes && size.bytesPerToken < wider.bytesPerToken);
      });
    });
  }

  it("counts the parameters that the models are known for", () => {
    const parameters = (name: ShapeName) => variantSize(knownPlan(name, 128), 0, 128).parameters;
    equal(parameters("smollm2-135m"), 134_515_008);
    equal(parameters("llama-3.2-1b"), 1_235_814_400);
    equal(parameters("llama-3.1-8b"), 8_030_261_248);
    // Qwen2 has a bias on its values; ours is on the output, of another length, and on the value rows of q, k, v.
    const { numHiddenLayers, hiddenSize } = KNOWN_SHAPES["qwen2.5-7b"];
    equal(parameters("qwen2.5-7b") - numHiddenLayers * hiddenSize, 7_615_616_512);
  });

  it("comes to UniQL's sizes of Llama-3.1-8B and Qwen2.5-7B in its layout, at each of its ratios", () => {
    const rates = [0, 0.15, 0.25, 0.35];
    const published = { "llama-3.1-8b": [4.13, 3.64, 3.23, 2.9], "qwen2.5-7b": [3.92, 3.45, 3.11, 2.75] } as const;
    for (const [name, gigabytes] of Object.entries(published)) {
      const plan = knownPlan(name as ShapeName, 128, rates);
      deepEqual(rates.map((_, level) => Number(publishedGigabytes(plan, level).toFixed(2))), [...gigabytes], name);
    }
  });

  it("is 10 MB more for Llama-3.1-8B with the embedding scaled in blocks", () => {
    const plan = knownPlan("llama-3.1-8b", 128);
    equal((variantSize(plan, 0, 128).bytes / 1e9).toFixed(2), "4.14");
    equal((variantSize(plan, 7, 128).bytes / 1e9).toFixed(2), "2.87");
  });

  it("reads a row of the embedding per token, and all of it where it is the head as well", () => {
    const tied: ModelConfig = KNOWN_SHAPES["smollm2-135m"];
    const untied: ModelConfig = { ...tied, tieWordEmbeddings: false };
    const [one, two] = [tied, untied].map((config) => variantSize(uniformPlan(config, 32), 0, 32));
    const { vocabSize, hiddenSize } = tied;
    const row = hiddenSize / 2 + 2 * hiddenSize / 32;
    equal(two!.bytes - one!.bytes, vocabSize * row);
    equal(one!.bytesPerToken, one!.bytes + row);
    equal(two!.bytesPerToken, one!.bytesPerToken);
    equal(two!.parameters - one!.parameters, vocabSize * hiddenSize);
  });

  it("counts the rotation between a rotated stream and a tied head", () => {
    const config = KNOWN_SHAPES["smollm2-135m"];
    const plan = uniformPlan(config, 32);
    const rotated = { ...plan, headRotation: true };
    const { hiddenSize } = config;
    const more = hiddenSize * (hiddenSize / 2 + 2 * hiddenSize / 32);
    equal(variantSize(rotated, 3, 32).bytes - variantSize(plan, 3, 32).bytes, more);
    equal(variantSize(rotated, 3, 32).bytesPerToken - variantSize(plan, 3, 32).bytesPerToken, more);
  });
});
