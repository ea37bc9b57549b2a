/**
 * Measures an artefact with our operators: `espalier_bench.ts ARTEFACT PRUNING_RATE WORKLOAD_JSON` prints tokens per second
 * as JSON.
 */

import { median } from "../../commands/statistics.ts";
import { openKernels } from "../../kernels/native_library.ts";
import { openArtefact } from "../../models/artefact.ts";
import { type Decoder, openDecoder } from "../../models/decoder.ts";
import { openRuntime } from "../../onnx/mod.ts";
import type { Speeds, Workload } from "./workload.ts";

/** Steps after the prompts and before those that count: the sequences' caches are bound in the first one. */
const WARM_UP = 1;

async function measure(folder: string, pruningRate: number, workload: Workload): Promise<Speeds> {
  const { threads, context, steps, prefillTokens, prefills } = workload;
  const { kernels, reason } = await openKernels();
  if (kernels === null) throw new Error(`Cannot measure our own operators: ${reason}`);
  const artefact = await openArtefact(folder);
  const level = artefact.levels.findIndex((prepared) => prepared.pruningRate === pruningRate);
  if (level < 0) throw new RangeError(`Cannot measure rate ${pruningRate}: ${folder} is not prepared for it`);
  using decoder = await openDecoder(openRuntime(), {
    plan: artefact.plan,
    weights: artefact.weights(),
    folder,
    lanes: 8,
    maxTokens: Math.max(context + WARM_UP + steps, prefillTokens),
    maxRows: Math.max(context, prefillTokens),
    threads,
    operators: kernels.path,
  });
  await prefillSpeed(decoder, level, workload);
  await decodeSpeed(decoder, level, 1, workload);
  return {
    one: await decodeSpeed(decoder, level, 1, workload),
    eight: await decodeSpeed(decoder, level, 8, workload),
    prefill: median(await repeated(prefills, () => prefillSpeed(decoder, level, workload))),
  };
}

async function repeated(times: number, measure: () => Promise<number>): Promise<number[]> {
  const found: number[] = [];
  while (found.length < times) found.push(await measure());
  return found;
}

async function decodeSpeed(
  decoder: Decoder,
  level: number,
  count: number,
  { context, steps }: Workload,
): Promise<number> {
  const sequences = Array.from({ length: count }, () => decoder.openSequence(level));
  try {
    for (const sequence of sequences) {
      await decoder.step([{ sequence, tokens: randomTokens(decoder, context), logits: "none" }]);
    }
    const step = () =>
      decoder.step(
        sequences.map((sequence) => ({ sequence, tokens: randomTokens(decoder, 1), logits: "last" as const })),
      );
    for (let i = 0; i < WARM_UP; i++) await step();
    const start = performance.now();
    for (let i = 0; i < steps; i++) await step();
    return count * steps / ((performance.now() - start) / 1000);
  } finally {
    for (const sequence of sequences) sequence.close();
  }
}

async function prefillSpeed(decoder: Decoder, level: number, { prefillTokens }: Workload): Promise<number> {
  const sequence = decoder.openSequence(level);
  try {
    const tokens = randomTokens(decoder, prefillTokens);
    const start = performance.now();
    await decoder.step([{ sequence, tokens, logits: "last" }]);
    return prefillTokens / ((performance.now() - start) / 1000);
  } finally {
    sequence.close();
  }
}

function randomTokens(decoder: Decoder, length: number): Int32Array {
  const { vocabSize } = decoder.plan.config;
  return Int32Array.from({ length }, () => Math.floor(Math.random() * vocabSize));
}

const [folder, pruningRate, workload] = Deno.args as [string, string, string];
console.log(JSON.stringify(await measure(folder, Number(pruningRate), JSON.parse(workload))));
