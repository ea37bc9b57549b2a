/**
 * Trains a small model that tells stories, the Llama of the demo or one with state-space mixers, and writes it as a Hugging
 * Face checkpoint:
 *
 *     deno run -A commands/train_demo.ts --text FILE --out DIR [--model llama] [--minutes M | --steps N] [--seed S]
 *
 * The same text, seed and number of steps give the same model, up to the order in which floats are added. A run that was
 * interrupted goes on from its last validation when the same command is given again. DIR always has the model of the
 * lowest loss on held-out stories, those stories (`held_out.txt`), and those that it learned from (`learned.txt`), which
 * are the text to calibrate with.
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { parseFlags } from "./flags.ts";
import { runCommand } from "./run_command.ts";
import { densePlan } from "../models/block_tensors.ts";
import { describe } from "../models/families/mod.ts";
import { openRuntime } from "../onnx/mod.ts";
import { DEMO_MODELS } from "../compression/training/demo_models.ts";
import { initialWeights } from "../compression/training/initialization.ts";
import { randomFor } from "../compression/training/random.ts";
import { learningRateAt } from "../compression/training/schedule.ts";
import { END_OF_TEXT, splitStories } from "../compression/training/stories.ts";
import { prepareStories, type StoryData } from "../compression/training/story_data.ts";
import { trainedTensors, writeTrainedCheckpoint } from "../compression/training/trained_checkpoint.ts";
import { Trainer } from "../compression/training/trainer.ts";
import { loadTrainingState, saveTrainingState } from "../compression/training/training_state.ts";
import { fillWithRandomWindows, type TokenStream } from "../compression/training/windows.ts";

const STEPS_BETWEEN_VALIDATIONS = 50;
/** Share of the steps that also learn from `--first-text`. */
const FIRST_SHARE = 2 / 3;
/** Steps that are timed where a number of minutes is to become a number of steps. */
const TIMED_STEPS = 5;

const Flags = z.strictObject({
  text: z.array(z.string()).min(1).describe("File of stories to learn; every twentieth is held out"),
  firstText: z.array(z.string()).default([]).describe(
    "File of stories to learn from as well at first, for two thirds of the steps",
  ),
  model: z.enum(["llama", "mamba2", "bamba"]).default("llama").describe("Family of the model"),
  out: z.string().describe("Folder for the checkpoint"),
  minutes: z.number().positive().default(30).describe("How long to train, where no steps are given"),
  steps: z.int().positive().optional().describe("How many steps to train"),
  seed: z.int().nonnegative().default(1).describe("Seed of the weights and of the order of texts"),
  threads: z.int().positive().default(navigator.hardwareConcurrency).describe("Threads to compute with"),
});
type Flags = z.output<typeof Flags>;

async function train(flags: Flags): Promise<void> {
  const { model, out, seed, threads } = flags;
  const { config: rawConfig, batch, peakLearningRate } = DEMO_MODELS[model];
  const batchTokens = batch.sequences * batch.length;
  const description = describe(rawConfig);
  const { config } = description;
  const stories = await readStories(flags.text);
  const extra = await readStories(flags.firstText);
  const data = prepareStories(stories, { extra, vocabSize: config.vocabSize, seed });
  console.log(
    `${data.learnedStories.length} stories, ${data.tokens} tokens; held out: ${data.heldOutStories.length}, ` +
      `${data.heldOut.length} tokens; only at first: ${extra.length}, ${data.extraTokens} tokens`,
  );
  const plan = densePlan(description);
  using trainer = await Trainer.open(openRuntime(), {
    plan,
    shape: batch,
    threads,
    initialize: (layout) => initialWeights(plan, layout, randomFor(seed, "weights")),
  });
  const { layout, weights, optimizer: { mean, square } } = trainer;
  const best = weights.slice();
  const arrays = { weights, mean, square, best };

  const run = createHash("sha256").update(JSON.stringify([rawConfig, batch, seed, stories, extra])).digest("hex");
  const statePath = join(out, "training_state.safetensors");
  await Deno.mkdir(out, { recursive: true });
  const saved = await loadTrainingState(statePath, run, arrays);
  if (saved !== null && flags.steps !== undefined && saved.steps !== flags.steps) {
    throw new RangeError(`Cannot resume ${out} with ${flags.steps} steps: the run was planned for ${saved.steps}`);
  }
  const textOf = (stories: readonly string[]) => stories.map((story) => END_OF_TEXT + story).join("");
  await Deno.writeTextFile(join(out, "held_out.txt"), textOf(data.heldOutStories));
  await Deno.writeTextFile(join(out, "learned.txt"), textOf(data.learnedStories));
  const steps = saved?.steps ?? flags.steps ?? await stepsIn(flags.minutes, trainer, data, batch.length);
  let { step, bestLoss } = saved ?? { step: 0, bestLoss: Infinity };
  console.log(`${layout.length} parameters, ${steps} steps from ${step} on; --steps ${steps} repeats this run`);

  const schedule = {
    steps,
    warmUpSteps: Math.min(100, Math.ceil(steps / 10)),
    peak: peakLearningRate,
    end: peakLearningRate / 20,
  };
  const stepsPerEpoch = Math.ceil(data.tokens / batchTokens);
  const firstSteps = Math.round(steps * FIRST_SHARE);
  const streamAt = (step: number) => data.epoch(Math.floor(step / stepsPerEpoch), step < firstSteps);
  let stream: TokenStream | undefined;
  let [since, sinceStep, lossSum] = [performance.now(), step, 0];
  while (step < steps) {
    if (stream === undefined || step % stepsPerEpoch === 0 || step === firstSteps) stream = streamAt(step);
    fillWithRandomWindows(stream, batch.length, trainer.batch, randomFor(seed, "windows", step));
    const { loss } = await trainer.step(step, learningRateAt(step, schedule));
    if (!Number.isFinite(loss)) throw new RangeError(`Cannot go on: the loss became ${loss} at step ${step}`);
    lossSum += loss;
    step++;
    if (step % STEPS_BETWEEN_VALIDATIONS !== 0 && step !== steps) continue;

    const tokensPerSecond = (step - sinceStep) * batchTokens / (performance.now() - since) * 1000;
    const heldOutLoss = await trainer.evaluate(data.heldOut);
    const minutesLeft = (steps - step) * batchTokens / tokensPerSecond / 60;
    console.log(
      `step ${step}/${steps}  loss ${(lossSum / (step - sinceStep)).toFixed(3)}  held out ${heldOutLoss.toFixed(3)}  ` +
        `${tokensPerSecond.toFixed(0)} tokens/s  ${minutesLeft.toFixed(1)} min left`,
    );
    if (heldOutLoss < bestLoss) {
      bestLoss = heldOutLoss;
      best.set(weights);
      const facts = { step, steps, seed, held_out_loss: Number(bestLoss.toFixed(4)) };
      const provenance = Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, String(value)]));
      const tensors = trainedTensors(description, plan, layout, best);
      await writeTrainedCheckpoint(out, { tensors, rawConfig, config, tokenizer: data.tokenizer, provenance });
    }
    await saveTrainingState(statePath, run, { step, steps, bestLoss, arrays });
    [since, sinceStep, lossSum] = [performance.now(), step, 0];
  }
  console.log(`Done: ${bestLoss.toFixed(4)} nats per held-out token, in ${out}`);
}

async function readStories(paths: readonly string[]): Promise<string[]> {
  return (await Promise.all(paths.map((path) => Deno.readTextFile(path)))).flatMap(splitStories);
}

/** How many steps fit a number of minutes, by the time of a few that leave the weights as they are. */
async function stepsIn(minutes: number, trainer: Trainer, data: StoryData, length: number): Promise<number> {
  const stream = data.epoch(0, false);
  const start = performance.now();
  for (let i = 0; i < TIMED_STEPS; i++) {
    fillWithRandomWindows(stream, length, trainer.batch, randomFor(0, "windows", i));
    await trainer.step(i, 0);
  }
  for (const means of [trainer.optimizer.mean, trainer.optimizer.square]) means.fill(0);
  return Math.max(1, Math.round(minutes * 60_000 * TIMED_STEPS / (performance.now() - start)));
}

if (import.meta.main) {
  await runCommand(() =>
    train(parseFlags(Flags, Deno.args, {
      name: "deno run -A commands/train_demo.ts",
      summary: "Trains a small model that tells stories and writes it as a Hugging Face checkpoint.",
    }))
  );
}
