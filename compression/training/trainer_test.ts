import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { join } from "node:path";
import { openRuntime } from "../../onnx/mod.ts";
import { randomFor } from "./random.ts";
import { TINY, tinyLlama } from "./testing/tiny_models.ts";
import { Trainer } from "./trainer.ts";
import { loadTrainingState, saveTrainingState } from "./training_state.ts";
import { fillWithRandomWindows, joinStories } from "./windows.ts";

const SHAPE = { sequences: 4, length: 8 };
/** Stories that count, each from another number on: every token but the first follows from the one before. */
const STORIES = joinStories(
  Array.from({ length: 12 }, (_, story) => [0, ...Array.from({ length: 10 }, (_, i) => 1 + (3 * story + i) % 39)]),
);

function openTrainer(): Promise<Trainer> {
  const { plan, weights } = tinyLlama();
  return Trainer.open(openRuntime(), { plan, shape: SHAPE, threads: 1, initialize: () => weights.slice() });
}

async function learn(trainer: Trainer, from: number, to: number): Promise<number[]> {
  const losses: number[] = [];
  for (let step = from; step < to; step++) {
    fillWithRandomWindows(STORIES, SHAPE.length, trainer.batch, randomFor(2, "windows", step));
    losses.push((await trainer.step(step, 5e-3)).loss);
  }
  return losses;
}

describe("Trainer", () => {
  it("learns to count", async () => {
    using trainer = await openTrainer();
    const before = await trainer.evaluate(STORIES.tokens);
    const losses = await learn(trainer, 0, 150);
    const after = await trainer.evaluate(STORIES.tokens);
    ok(before > Math.log(TINY.vocabSize), `${before}`); // worse than guessing: the weights are large
    ok(after < 0.5, `${after}`); // one token in eleven cannot be known
    equal(losses.length, 150);
  });

  it("takes the same steps again from the same weights", async () => {
    using first = await openTrainer();
    using second = await openTrainer();
    deepEqual(await learn(first, 0, 5), await learn(second, 0, 5));
    deepEqual(first.weights, second.weights);
  });

  it("goes on from a saved state as if it had not been interrupted", async () => {
    const folder = await Deno.makeTempDir();
    try {
      const path = join(folder, "state.safetensors");
      const arraysOf = ({ weights, optimizer: { mean, square } }: Trainer) => ({
        weights,
        mean,
        square,
        best: weights,
      });
      using whole = await openTrainer();
      await learn(whole, 0, 4);
      const state = { step: 4, steps: 9, bestLoss: 1.25 };
      await saveTrainingState(path, "run A", { ...state, arrays: arraysOf(whole) });
      const losses = await learn(whole, 4, 8);

      using resumed = await openTrainer();
      deepEqual(await loadTrainingState(path, "run A", arraysOf(resumed)), state);
      deepEqual(await learn(resumed, 4, 8), losses);
      deepEqual(resumed.weights, whole.weights);

      await rejects(loadTrainingState(path, "run B", arraysOf(resumed)), {
        name: "RangeError",
        message: /it is of the run run A, and this is run B/,
      });
      equal(await loadTrainingState(join(folder, "none"), "run A", arraysOf(resumed)), null);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });

  it("refuses to evaluate on less than a batch", async () => {
    using trainer = await openTrainer();
    await rejects(trainer.evaluate(STORIES.tokens.subarray(0, 32)), {
      name: "RangeError",
      message: "Cannot evaluate on 32 tokens: a batch takes 33",
    });
  });
});
