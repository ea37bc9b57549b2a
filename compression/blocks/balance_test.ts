import { describe as suite, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { type BlockWeights, DenseBlock } from "../../models/dense_block.ts";
import { mambaOf, type ModelConfig } from "../../models/description.ts";
import { type BlockSpec, fullWidth, type ModelPlan, planModel } from "../../models/plan.ts";
import { openRuntime } from "../../onnx/mod.ts";
import { TINY_LLAMA, TINY_NEMOTRON_H } from "../../tests/support/tiny_models.ts";
import { randomNumbers } from "../random_numbers.ts";
import { methodOf } from "./mod.ts";

const TOKENS = 12;
const random = randomNumbers(3);
const values = (length: number, scale = 1) => Float32Array.from({ length }, () => scale * (2 * random() - 1));

suite("balance()", () => {
  const { hiddenSize: D, headDim: K, numAttentionHeads: H, numKeyValueHeads: G, intermediateSize: F } = TINY_LLAMA;
  const norm = values(D);
  const hybrid = TINY_NEMOTRON_H;
  const { numHeads, headDim, numGroups, stateSize, convKernel } = mambaOf(hybrid);
  const [E, S] = [numHeads * headDim, 2 * numGroups * stateSize];
  const blocks: [ModelConfig, BlockWeights, string, (column: number) => number][] = [
    [
      TINY_LLAMA,
      {
        kind: "attention",
        norm,
        qkv: values((H + 2 * G) * K * D),
        output: unequalColumns(D, H * K),
        qkvBias: null,
        outputBias: null,
      },
      "output",
      (column) => Math.floor(column / K / (H / G)) * K + column % K,
    ],
    [
      TINY_LLAMA,
      { kind: "gatedMlp", norm, gateUp: values(2 * F * D, 0.2), down: unequalColumns(D, F) },
      "down",
      (column) => column,
    ],
    [
      hybrid,
      {
        kind: "mlp",
        norm,
        up: values(hybrid.intermediateSize * D, 0.2),
        down: unequalColumns(D, hybrid.intermediateSize),
      },
      "down",
      (column) => column,
    ],
    [
      hybrid,
      {
        kind: "mamba",
        norm,
        input: values((2 * E + S + numHeads) * D, 0.3),
        convX: values(E * convKernel),
        convXBias: values(E),
        convBc: values(S * convKernel),
        convBcBias: values(S),
        aLog: values(numHeads),
        skip: values(numHeads),
        dtBias: values(numHeads),
        gatedNorm: values(E),
        output: unequalColumns(D, E),
      },
      "output",
      (column) => column,
    ],
  ];

  for (const [config, weights, matrix, placeOf] of blocks) {
    it(`leaves what a block of kind ${weights.kind} does, and makes its columns equally large`, async () => {
      const before = structuredClone(weights);
      const balanced = methodOf(weights.kind).balance(
        config,
        planOf(config, weights.kind).layers[0]![0]! as never,
        weights as never,
      ) as BlockWeights;
      const after = energies(balanced, matrix, placeOf);
      ok(Math.max(...after) / Math.min(...after) < 1.001);
      const found = energies(weights, matrix, placeOf);
      ok(Math.max(...found) / Math.min(...found) > 2, "it was balanced before");
      const input = values(TOKENS * D);
      const [expected, actual] = [await outputOf(config, before, input), await outputOf(config, balanced, input)];
      for (const [i, value] of expected.entries()) ok(Math.abs(value - actual[i]!) < 1e-4, `${value}, ${actual[i]}`);
    });
  }
});

/** `[rows, columns]`, each column of another size. */
function unequalColumns(rows: number, columns: number): Float32Array<ArrayBuffer> {
  return values(rows * columns, 0.1).map((value, at) => value * (1 + at % columns % 7));
}

/** Squared sizes of the columns that share a place. */
function energies(weights: BlockWeights, name: string, placeOf: (column: number) => number): number[] {
  const matrix = (weights as unknown as Record<string, Float32Array>)[name]!;
  const columns = matrix.length / weights.norm.length;
  const sums: number[] = [];
  matrix.forEach((value, at) => sums[placeOf(at % columns)] = (sums[placeOf(at % columns)] ?? 0) + value ** 2);
  return sums;
}

/** What a block makes of `[T, D]`, without the residual stream. */
async function outputOf(config: ModelConfig, weights: BlockWeights, input: Float32Array): Promise<Float32Array> {
  const plan = planOf(config, weights.kind);
  using block = await DenseBlock.open(openRuntime(), { plan, block: plan.layers[0]![0]!, threads: 1 });
  block.setWeights(weights);
  const hidden = Float32Array.from(input);
  await block.run(hidden);
  return hidden.map((value, i) => value - input[i]!);
}

/** A block alone, cut once. */
function planOf(config: ModelConfig, kind: BlockWeights["kind"]): ModelPlan {
  const full = fullWidth(config, kind);
  const stateSize = config.mamba?.stateSize ?? 0;
  const widths = [full, full - 8];
  const spec: BlockSpec = {
    attention: { kind: "attention" as const, widths, queryKeyBias: false, outputBias: false },
    gatedMlp: { kind: "gatedMlp" as const, widths },
    mlp: { kind: "mlp" as const, widths },
    mamba: {
      kind: "mamba" as const,
      widths,
      stateWidths: [stateSize, stateSize],
      convBias: true,
      skipPerChannel: false,
    },
  }[kind];
  return planModel(config, [[spec]]);
}
