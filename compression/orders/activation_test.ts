import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import { openLinearAlgebra } from "../../kernels/linear_algebra.ts";
import { DenseBlock } from "../../models/dense_block.ts";
import { planModel } from "../../models/plan.ts";
import { openRuntime } from "../../onnx/mod.ts";
import { TINY_LLAMA } from "../../tests/support/tiny_models.ts";
import { randomNumbers } from "../random_numbers.ts";
import { activation } from "./activation.ts";
import { importance } from "./importance.ts";
import { orderOf } from "./mod.ts";

const { mlpChannels } = activation;
const config = { ...TINY_LLAMA, hiddenSize: 4, intermediateSize: 6 };
const { hiddenSize: D, intermediateSize: F } = config;
const known = { config, algebra: openLinearAlgebra({ backend: "plain" }), ridge: 1, random: () => 0 };

describe("activation", () => {
  it("sorts MLP channels by the length of their activations times that of their column of down", async () => {
    const down = new Float32Array([3, 0, 1, /**/ 4, 2, 0]);
    const statistics = new Map([["hidden_energies", Float32Array.of(4, 100, 9)]]);
    const { order, scores } = await mlpChannels!.order({ into: [], down }, { ...known, statistics });
    deepEqual([...scores], [10, 20, 3]);
    deepEqual(order, [1, 0, 2]);
  });

  it("scores by what leaves the block without the channel", async () => {
    const random = randomNumbers(3);
    const draw = (length: number) => Float32Array.from({ length }, () => 2 * random() - 1);
    const plan = planModel(config, [[{ kind: "mlp", widths: [F] }]]);
    using block = await DenseBlock.open(openRuntime(), {
      plan,
      block: plan.layers[0]![0]!,
      threads: 1,
      statistic: mlpChannels!.statistics!(config),
    });
    const [norm, up, down] = [new Float32Array(D).fill(1), draw(F * D), draw(D * F)];
    const windows = [draw(5 * D), draw(3 * D)];
    const outputs = async (down: Float32Array<ArrayBuffer>) => {
      block.setWeights({ kind: "mlp", norm, up, down });
      block.resetStatistics();
      const copies = windows.map((window) => window.slice());
      for (const window of copies) await block.run(window);
      return copies.flatMap((window) => [...window]);
    };
    const whole = await outputs(down);
    const { scores } = await mlpChannels!.order({ into: [up], down }, { ...known, statistics: block.statistics });
    for (const [channel, score] of [...scores].entries()) {
      const without = await outputs(down.map((weight, i) => i % F === channel ? 0 : weight));
      const change = Math.hypot(...whole.map((value, i) => value - without[i]!));
      ok(Math.abs(score - change) < 1e-5 * (1 + change), `channel ${channel}: ${score}, ${change}`);
    }
  });

  it("leaves all other axes to importance", () => {
    const { mlpChannels, ...others } = orderOf("activation");
    const { mlpChannels: leverage, ...expected } = importance;
    deepEqual(others, expected);
    equal(mlpChannels === leverage, false);
  });
});
