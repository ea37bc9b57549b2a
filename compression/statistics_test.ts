import { describe as suite, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { DenseBlock } from "../models/dense_block.ts";
import { planModel } from "../models/plan.ts";
import { openRuntime } from "../onnx/mod.ts";
import { TINY_LLAMA } from "../tests/support/tiny_models.ts";
import { randomNumbers } from "./random_numbers.ts";
import { writingStatistics } from "./statistics.ts";

suite("writingStatistics()", () => {
  const { hiddenSize: D, intermediateSize: F } = TINY_LLAMA;
  const random = randomNumbers(9);
  const values = (length: number) => Float32Array.from({ length }, () => 2 * random() - 1);
  const plan = planModel(TINY_LLAMA, [[{ kind: "gatedMlp", widths: [F] }]]);
  const block = plan.layers[0]![0]!;
  const weights = {
    kind: "gatedMlp" as const,
    norm: values(D),
    gateUp: values(2 * F * D),
    down: values(D * F),
  };
  const token = values(D);

  it("divides a token by what leaves the block, in whichever network that is greater", async () => {
    const runtime = openRuntime();
    using running = await DenseBlock.open(runtime, { plan, block, threads: 1 });
    running.setWeights(weights);
    const output = token.slice();
    await running.run(output);

    using writing = await DenseBlock.open(runtime, {
      plan,
      block,
      threads: 1,
      statistic: writingStatistics(TINY_LLAMA, block),
      withOutput: false,
    });
    writing.setWeights(weights);
    const gramBeside = async (reference: Float32Array<ArrayBuffer>) => {
      writing.resetStatistics();
      await writing.run(token.slice(), reference);
      return writing.statistics.get("hidden.0.gram")!.slice();
    };
    const alike = await gramBeside(output);
    const greaterHere = await gramBeside(output.map((value) => value / 1000));
    const greaterThere = await gramBeside(output.map((value) => value * 10));
    ok(alike.some((value) => value > 0));
    for (const [i, value] of alike.entries()) {
      ok(Math.abs(greaterHere[i]! - value) <= 1e-5 * Math.abs(value));
      ok(Math.abs(greaterThere[i]! * 100 - value) <= 1e-4 * Math.abs(value));
    }
  });
});
