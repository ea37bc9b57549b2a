import { describe, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { type Binding, ElementType, type Model, openRuntime } from "../../onnx/mod.ts";
import { evaluationModel, trainingModel } from "./loss.ts";
import type { ParameterLayout } from "./parameters.ts";
import { randomFor } from "./random.ts";
import { logitsModel } from "./testing/logits_model.ts";
import { TINY, type TINY_CONFIGS, tinyLlama, tinyModel } from "./testing/tiny_models.ts";

const SHAPE = { sequences: 2, length: 6 };
const ROWS = SHAPE.sequences * SHAPE.length;
const random = randomFor(1, "windows");
const tokenList = () => BigInt64Array.from({ length: ROWS }, () => BigInt(Math.floor(random() * TINY.vocabSize)));
const tokens = tokenList();
const targets = tokenList();

async function openBinding(
  model: Model,
  layout: ParameterLayout,
  weights: Float32Array<ArrayBuffer>,
): Promise<Binding> {
  const runtime = openRuntime();
  const session = await runtime.openSession({ model, threads: 1 });
  const binding = session.bind();
  for (const [name, tensor] of layout.tensors(runtime, weights)) binding.input(name, tensor);
  binding.input("tokens", runtime.tensor(ElementType.int64, [ROWS], tokens));
  if (session.inputNames.includes("targets")) {
    binding.input("targets", runtime.tensor(ElementType.int64, [ROWS], targets));
  }
  return binding;
}

const scalar = () => openRuntime().tensor(ElementType.float32, [], new Float32Array(1));

describe("evaluationModel()", () => {
  it("is the mean of −log softmax(logits)[target]", async () => {
    const { plan, layout, weights } = tinyLlama();
    const logits = new Float32Array(ROWS * TINY.vocabSize);
    const output = openRuntime().tensor(ElementType.float32, [ROWS, TINY.vocabSize], logits);
    await (await openBinding(logitsModel(plan, SHAPE), layout, weights)).output("logits", output).run();
    const loss = scalar();
    await (await openBinding(evaluationModel(plan, SHAPE), layout, weights)).output("loss", loss).run();

    let expected = 0;
    for (let row = 0; row < ROWS; row++) {
      const own = logits.subarray(row * TINY.vocabSize, (row + 1) * TINY.vocabSize);
      const total = own.reduce((sum, logit) => sum + Math.exp(logit), 0);
      expected -= Math.log(Math.exp(own[Number(targets[row])]!) / total) / ROWS;
    }
    ok(Math.abs(loss.data[0]! - expected) < 1e-5, `${loss.data[0]}, expected ${expected}`);
  });
});

describe("trainingModel()", () => {
  for (const family of ["llama", "mamba2", "bamba"] as const) {
    it(`has the gradients of a whole ${family}: they agree with differences in every parameter`, () =>
      agreesWithDifferences(family));
  }
});

async function agreesWithDifferences(family: keyof typeof TINY_CONFIGS): Promise<void> {
  const { plan, layout, weights } = tinyModel(family);
  const gradient = new Float32Array(layout.length);
  const loss = scalar();
  const training = (await openBinding(trainingModel(plan, SHAPE), layout, weights)).output("loss", loss);
  for (const [name, tensor] of layout.tensors(openRuntime(), gradient)) training.output(`gradient.${name}`, tensor);
  await training.run();
  const evaluation = (await openBinding(evaluationModel(plan, SHAPE), layout, weights)).output("loss", loss);

  // Along a whole direction, since one weight's share of the loss would drown in float32 rounding: a step of 1e-2 along
  // the gradient itself moves the loss by about 2e-2 · |gradient|, rounded to 4e-7, with a third-order error below 1 %.
  for (const { name } of layout.places.values()) {
    const [view, own] = [layout.view(weights, name), layout.view(gradient, name)];
    const norm = Math.hypot(...own);
    ok(norm > 1e-3, `${name}: the gradient is ${norm}`);
    const before = view.slice();
    const lossAt = async (step: number) => {
      view.forEach((_, i) => view[i] = before[i]! + step * own[i]! / norm);
      await evaluation.run();
      view.set(before);
      return loss.data[0]!;
    };
    const slope = (await lossAt(1e-2) - await lossAt(-1e-2)) / 2e-2;
    ok(Math.abs(slope / norm - 1) < 0.01, `${name}: slope ${slope}, gradient ${norm}`);
  }
}
