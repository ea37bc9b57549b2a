/**
 * Trains the demo model, a small Llama that tells stories, and writes it as a Hugging Face checkpoint:
 *
 *     deno run -A compression/training/train_demo.ts --text FILE --out DIR [--minutes M | --steps N] [--seed S]
 *
 * The same text, seed and number of steps give the same model, up to the order in
 * which floats are added. A run that was interrupted goes on from its last validation when the same command is given
 * again. DIR always has the model of the lowest loss on held-out stories.
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { parseFlags } from "../../commands/flags.ts";
import { densePlan } from "../../models/block_tensors.ts";
import type { ModelConfig } from "../../models/description.ts";
import { describe } from "../../models/families/mod.ts";
import { Tokenizer } from "../../models/tokenizer.ts";
import { openRuntime } from "../../onnx/mod.ts";
import { initialWeights } from "./initialization.ts";
import { llamaConfig, writeLlamaCheckpoint } from "./llama_checkpoint.ts";
import { randomFor } from "./random.ts";
import { learningRateAt, type Schedule } from "./schedule.ts";
import { recast, splitStories } from "./stories.ts";
import { trainTokenizer } from "./train_tokenizer.ts";
import { Trainer } from "./trainer.ts";
import { loadTrainingState, saveTrainingState } from "./training_state.ts";
import { fillWithRandomWindows, joinStories, type TokenStream } from "./windows.ts";

const END_OF_TEXT_ID = 0;

/** 4.6 M parameters: what two cores train in under an hour on a megabyte of text. */
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
/** Every so many stories one is held out; evenly, because kinds of stories lie together in the file. */
const STORIES_PER_HELD_OUT = 20;
/** Share of the stories that are told about others, anew in each epoch. */
const RECAST_SHARE = 0.75;
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

async function train(
  { text, firstText, out, minutes, steps: givenSteps, seed, threads }: z.output<typeof Flags>,
): Promise<void> {
  const readStories = async (paths: readonly string[]) =>
    (await Promise.all(paths.map((path) => Deno.readTextFile(path)))).flatMap(splitStories);
  const stories = await readStories(text);
  const firstStories = await readStories(firstText);
  const isHeldOut = (index: number) => index % STORIES_PER_HELD_OUT === STORIES_PER_HELD_OUT - 1;
  const trainingStories = stories.filter((_, index) => !isHeldOut(index));
  const files = trainTokenizer(trainingStories, CONFIG.vocabSize);
  const tokenizer = new Tokenizer(files);
  const encode = (story: string) => tokenizer.encode(story, { addSpecialTokens: true });
  const heldOut = joinStories(stories.filter((_, index) => isHeldOut(index)).map(encode)).tokens;
  const first = firstStories.map(encode);
  const plain = joinStories(trainingStories.map(encode));
  const stepsPerEpoch = Math.ceil(plain.tokens.length / BATCH_TOKENS);
  console.log(
    `${trainingStories.length} stories, ${plain.tokens.length} tokens; held out: ` +
      `${stories.length - trainingStories.length}, ${heldOut.length} tokens; only at first: ${first.length}, ` +
      `${first.reduce((sum, { length }) => sum + length, 0)} tokens`,
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
  console.log(`${layout.length} parameters, ${stepsPerEpoch} steps of ${BATCH_TOKENS} tokens per epoch`);

  const streamOf = (epoch: number, withFirst: boolean): TokenStream => {
    const random = randomFor(seed, "recast", epoch);
    const recastStories = trainingStories.map((story) =>
      encode(random() < RECAST_SHARE ? recast(story, random) : story)
    );
    return joinStories(withFirst ? [...recastStories, ...first] : recastStories);
  };
  const learn = async (stream: TokenStream, step: number, learningRate: number) => {
    fillWithRandomWindows(stream, BATCH.length, trainer.batch, randomFor(seed, "windows", step));
    return await trainer.step(step, learningRate);
  };

  const run = createHash("sha256").update(JSON.stringify([CONFIG, BATCH, seed, stories, firstStories])).digest("hex");
  const statePath = join(out, "training_state.safetensors");
  await Deno.mkdir(out, { recursive: true });
  const saved = await loadTrainingState(statePath, run, arrays);
  if (saved !== null && givenSteps !== undefined && saved.steps !== givenSteps) {
    throw new RangeError(`Cannot resume ${out} with ${givenSteps} steps: the run was planned for ${saved.steps}`);
  }
  let { step, bestLoss } = saved ?? { step: 0, bestLoss: Infinity };
  const stepsInMinutes = async () => {
    const start = performance.now();
    for (let i = 0; i < TIMED_STEPS; i++) await learn(plain, i, 0); // changes nothing but the optimizer's means
    for (const means of [mean, square]) means.fill(0);
    return Math.max(1, Math.round(minutes * 60_000 / ((performance.now() - start) / TIMED_STEPS)));
  };
  const steps = saved?.steps ?? givenSteps ?? await stepsInMinutes();
  const schedule: Schedule = {
    steps,
    warmUpSteps: Math.min(100, Math.ceil(steps / 10)),
    peak: PEAK_LEARNING_RATE,
    end: PEAK_LEARNING_RATE / 20,
  };
  console.log(`${steps} steps from ${step} on; --steps ${steps} --seed ${seed} repeats this run`);

  const firstSteps = Math.round(steps * FIRST_SHARE);
  const streamAt = (step: number) => streamOf(Math.floor(step / stepsPerEpoch), step < firstSteps);
  let stream = streamAt(step);
  let [since, sinceStep, lossSum] = [performance.now(), step, 0];
  while (step < steps) {
    if (step % stepsPerEpoch === 0 || step === firstSteps) stream = streamAt(step);
    const { loss } = await learn(stream, step, learningRateAt(step, schedule));
    if (!Number.isFinite(loss)) throw new RangeError(`The loss became ${loss} at step ${step}`);
    lossSum += loss;
    step++;
    if (step % STEPS_BETWEEN_VALIDATIONS !== 0 && step !== steps) continue;

    const tokensPerSecond = (step - sinceStep) * BATCH_TOKENS / (performance.now() - since) * 1000;
    const heldOutLoss = await trainer.evaluate(heldOut);
    const minutesLeft = (steps - step) * BATCH_TOKENS / tokensPerSecond / 60;
    console.log(
      `step ${step}/${steps}  loss ${(lossSum / (step - sinceStep)).toFixed(3)}  held out ${heldOutLoss.toFixed(3)}  ` +
        `${tokensPerSecond.toFixed(0)} tokens/s  ${minutesLeft.toFixed(1)} min left`,
    );
    if (heldOutLoss < bestLoss) {
      bestLoss = heldOutLoss;
      best.set(weights);
      const provenance = {
        step: String(step),
        steps: String(steps),
        seed: String(seed),
        held_out_loss: bestLoss.toFixed(4),
      };
      await writeLlamaCheckpoint(out, { plan, layout, weights: best, tokenizer: files, provenance });
    }
    await saveTrainingState(statePath, run, { step, steps, bestLoss, arrays });
    [since, sinceStep, lossSum] = [performance.now(), step, 0];
  }
  console.log(`Done: held-out loss ${bestLoss.toFixed(4)} nats per token, in ${out}`);
}

if (import.meta.main) {
  await train(parseFlags(Flags, Deno.args, {
    name: "deno run -A compression/training/train_demo.ts",
    summary: "Trains the demo model, a small Llama that tells stories, and writes it as a Hugging Face checkpoint.",
  }));
}
