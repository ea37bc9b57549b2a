/**
 * Trains the demo model, a small Llama that tells stories, and writes it as a Hugging Face checkpoint:
 *
 *     deno run -A commands/train_demo.ts --text FILE --out DIR [--minutes M | --steps N] [--seed S]
 *
 * The same text, seed and number of steps give the same model, up to the order in which floats are added. A run that was
 * interrupted goes on from its last validation when the same command is given again. DIR always has the model of the
 * lowest loss on held-out stories.
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { parseFlags } from "./flags.ts";
import { densePlan } from "../models/block_tensors.ts";
import type { ModelConfig } from "../models/description.ts";
import { describe } from "../models/families/mod.ts";
import { openRuntime } from "../onnx/mod.ts";
import { initialWeights } from "../compression/training/initialization.ts";
import { llamaConfig, writeLlamaCheckpoint } from "../compression/training/llama_checkpoint.ts";
import { randomFor } from "../compression/training/random.ts";
import { learningRateAt } from "../compression/training/schedule.ts";
import { splitStories } from "../compression/training/stories.ts";
import { prepareStories, type StoryData } from "../compression/training/story_data.ts";
import { Trainer } from "../compression/training/trainer.ts";
import { loadTrainingState, saveTrainingState } from "../compression/training/training_state.ts";
import { fillWithRandomWindows, type TokenStream } from "../compression/training/windows.ts";

const END_OF_TEXT_ID = 0;

/** 4.7 M parameters: what two cores train in under an hour. */
const CONFIG: ModelConfig = {
  family: "llama",
  hiddenSize: 256,
  intermediateSize: 640,
  numHiddenLayers: 6,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 64,
  vocabSize: 2048,
  rmsNormEps: 1e-5,
  maxPositionEmbeddings: 512,
  rope: { theta: 10_000, scaling: null },
  tieWordEmbeddings: true,
  bosTokenId: END_OF_TEXT_ID,
  eosTokenIds: [END_OF_TEXT_ID],
};

const BATCH = { sequences: 8, length: 256 };
const BATCH_TOKENS = BATCH.sequences * BATCH.length;
const PEAK_LEARNING_RATE = 1.5e-3;
const STEPS_BETWEEN_VALIDATIONS = 50;
/** Share of the steps that also learn from `--first-text`. */
const FIRST_SHARE = 2 / 3;
/** Steps that are timed where a number of minutes is to become a number of steps. */
const TIMED_STEPS = 5;

const Flags = z.strictObject({
  text: z.array(z.string()).min(1).describe("file of stories to learn; every twentieth is held out"),
  firstText: z.array(z.string()).default([]).describe(
    "file of stories to learn from as well at first, for two thirds of the steps",
  ),
  out: z.string().describe("folder for the checkpoint"),
  minutes: z.number().positive().default(30).describe("how long to train, where no steps are given"),
  steps: z.int().positive().optional().describe("how many steps to train"),
  seed: z.int().nonnegative().default(1).describe("of the weights and of the order of texts"),
  threads: z.int().positive().default(navigator.hardwareConcurrency).describe("threads to compute with"),
});
type Flags = z.output<typeof Flags>;

async function train(flags: Flags): Promise<void> {
  const { out, seed, threads } = flags;
  const stories = await readStories(flags.text);
  const extra = await readStories(flags.firstText);
  const data = prepareStories(stories, { extra, vocabSize: CONFIG.vocabSize, seed });
  console.log(
    `${data.stories} stories, ${data.tokens} tokens; held out: ${stories.length - data.stories}, ` +
      `${data.heldOut.length} tokens; only at first: ${extra.length}, ${data.extraTokens} tokens`,
  );
  const plan = densePlan(describe(llamaConfig(CONFIG)));
  using trainer = await Trainer.open(openRuntime(), {
    plan,
    shape: BATCH,
    threads,
    initialize: (layout) => initialWeights(plan, layout, randomFor(seed, "weights")),
  });
  const { layout, weights, optimizer: { mean, square } } = trainer;
  const best = weights.slice();
  const arrays = { weights, mean, square, best };

  const run = createHash("sha256").update(JSON.stringify([CONFIG, BATCH, seed, stories, extra])).digest("hex");
  const statePath = join(out, "training_state.safetensors");
  await Deno.mkdir(out, { recursive: true });
  const saved = await loadTrainingState(statePath, run, arrays);
  if (saved !== null && flags.steps !== undefined && saved.steps !== flags.steps) {
    throw new RangeError(`Cannot resume ${out} with ${flags.steps} steps: the run was planned for ${saved.steps}`);
  }
  const steps = saved?.steps ?? flags.steps ?? await stepsIn(flags.minutes, trainer, data);
  let { step, bestLoss } = saved ?? { step: 0, bestLoss: Infinity };
  console.log(`${layout.length} parameters, ${steps} steps from ${step} on; --steps ${steps} repeats this run`);

  const schedule = {
    steps,
    warmUpSteps: Math.min(100, Math.ceil(steps / 10)),
    peak: PEAK_LEARNING_RATE,
    end: PEAK_LEARNING_RATE / 20,
  };
  const stepsPerEpoch = Math.ceil(data.tokens / BATCH_TOKENS);
  const firstSteps = Math.round(steps * FIRST_SHARE);
  const streamAt = (step: number) => data.epoch(Math.floor(step / stepsPerEpoch), step < firstSteps);
  let stream: TokenStream | undefined;
  let [since, sinceStep, lossSum] = [performance.now(), step, 0];
  while (step < steps) {
    if (stream === undefined || step % stepsPerEpoch === 0 || step === firstSteps) stream = streamAt(step);
    fillWithRandomWindows(stream, BATCH.length, trainer.batch, randomFor(seed, "windows", step));
    const { loss } = await trainer.step(step, learningRateAt(step, schedule));
    if (!Number.isFinite(loss)) throw new RangeError(`Cannot go on: the loss became ${loss} at step ${step}`);
    lossSum += loss;
    step++;
    if (step % STEPS_BETWEEN_VALIDATIONS !== 0 && step !== steps) continue;

    const tokensPerSecond = (step - sinceStep) * BATCH_TOKENS / (performance.now() - since) * 1000;
    const heldOutLoss = await trainer.evaluate(data.heldOut);
    const minutesLeft = (steps - step) * BATCH_TOKENS / tokensPerSecond / 60;
    console.log(
      `step ${step}/${steps}  loss ${(lossSum / (step - sinceStep)).toFixed(3)}  held out ${heldOutLoss.toFixed(3)}  ` +
        `${tokensPerSecond.toFixed(0)} tokens/s  ${minutesLeft.toFixed(1)} min left`,
    );
    if (heldOutLoss < bestLoss) {
      bestLoss = heldOutLoss;
      best.set(weights);
      const facts = { step, steps, seed, held_out_loss: Number(bestLoss.toFixed(4)) };
      const provenance = Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, String(value)]));
      await writeLlamaCheckpoint(out, { plan, layout, weights: best, tokenizer: data.tokenizer, provenance });
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
async function stepsIn(minutes: number, trainer: Trainer, data: StoryData): Promise<number> {
  const stream = data.epoch(0, false);
  const start = performance.now();
  for (let i = 0; i < TIMED_STEPS; i++) {
    fillWithRandomWindows(stream, BATCH.length, trainer.batch, randomFor(0, "windows", i));
    await trainer.step(i, 0);
  }
  for (const means of [trainer.optimizer.mean, trainer.optimizer.square]) means.fill(0);
  return Math.max(1, Math.round(minutes * 60_000 * TIMED_STEPS / (performance.now() - start)));
}

if (import.meta.main) {
  await train(parseFlags(Flags, Deno.args, {
    name: "deno run -A commands/train_demo.ts",
    summary: "Trains the demo model, a small Llama that tells stories, and writes it as a Hugging Face checkpoint.",
  }));
}
