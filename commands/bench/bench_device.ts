/** `deno task bench --device cuda`: prompts and answers on a CUDA device, against what its memory allows. */

import { type Artefact, openArtefact } from "../../models/artefact.ts";
import { type Decoder, openDecoder } from "../../models/decoder.ts";
import { poolBytes } from "../../models/pools.ts";
import { cudaDevice, openRuntime } from "../../onnx/mod.ts";
import { type ChosenDevice, describeDevice } from "../device.ts";
import { progressBar } from "../progress_bar.ts";
import { levelOf } from "../level_of.ts";
import { median } from "../statistics.ts";
import { table } from "../text_table.ts";
import { deviceKinds } from "./device_kinds.ts";
import { formatProfile, profileSteps, withTimeline } from "./step_profile.ts";

export interface DeviceBenchFlags {
  readonly rounds: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly slots: number;
  /** All if empty. */
  readonly rate: readonly string[];
  readonly bandwidth?: number | undefined;
  readonly profile: boolean;
  readonly json: boolean;
}

/** Sequences of the batches at the first rate. */
const BATCHES = [1, 4, 8] as const;

/** One answer: time to its first token, and of all the others together. */
interface Answer {
  readonly firstMs: number;
  readonly decodeMs: number;
}

/**
 * Measures time to first token and decoding at every rate, in turn round after round, greedy on the host; batches at the first
 * rate; and the device's memory, which must not change when the rate does.
 *
 * With stock operators it is one sequence alone, for there every lane would cost launches, and memory is taken as steps come.
 *
 * @throws {RangeError} If a rate is asked for that is none of the artefact's.
 * @throws {Error} If changing the rate took memory of the device.
 */
export async function benchDevice(folder: string, chosen: ChosenDevice, given: DeviceBenchFlags): Promise<void> {
  const artefact = await openArtefact(folder);
  const stock = chosen.operators === null;
  const flags = stock ? { ...given, slots: 1 } : given;
  const measured = stock ? [] : BATCHES;
  const levels = flags.rate.length === 0
    ? artefact.levels.map((_, level) => level)
    : flags.rate.map((rate) => levelOf(artefact.levels, Number(rate)));
  const device = cudaDevice();
  if (flags.profile) return await profileDevice(artefact, chosen, flags);
  const copyGBps = device.copyBandwidth() / 1e9;
  const atFirst = device.memory();
  const openMs = performance.now();
  using decoder = await open(artefact, chosen, flags);
  const openSeconds = (performance.now() - openMs) / 1000;
  const opened = device.memory();

  const answers: Answer[][] = artefact.levels.map(() => []);
  const batches = measured.map((): number[] => []);
  using bar = progressBar("bench");
  await answer(decoder, [levels[0]!], flags);
  for (let round = 0; round < flags.rounds; round++) {
    for (const level of levels) {
      answers[level]!.push(await answer(decoder, [level], flags));
      bar.update((round + level / artefact.levels.length) / flags.rounds, `level ${level}`);
    }
    if (round % 4 > 0) continue;
    for (const [index, batch] of measured.entries()) {
      const { decodeMs } = await answer(decoder, Array(batch).fill(0), flags);
      batches[index]!.push(batch * (flags.outputTokens - 1) / (decodeMs / 1000));
    }
  }
  const after = device.memory();
  const best = flags.bandwidth ?? copyGBps;
  const pools = poolBytes(artefact.plan, {
    // Our operators warm up in a slot of their own.
    slots: flags.slots + (stock ? 0 : 1),
    maxTokens: maxTokensOf(flags),
  });
  const result = {
    model: artefact.name,
    device: describeDevice(chosen),
    blockSize: artefact.blockSize,
    rounds: flags.rounds,
    promptTokens: flags.promptTokens,
    outputTokens: flags.outputTokens,
    openSeconds,
    copyGBps,
    bandwidthGBps: best,
    weightBytes: artefact.weightBytes,
    weightsToHalf: artefact.weightBytes / (2 * artefact.levels[0]!.keptParameters),
    poolBytes: pools.kv_cache + pools.states,
    openedBytes: atFirst.free - opened.free,
    rateChangeBytes: opened.free - after.free,
    batches: measured.map((sequences, index) => ({ sequences, tokensPerSecond: median(batches[index]!) })),
    levels: levels.map((level) => {
      const { pruningRate, bytesPerToken } = artefact.levels[level]!;
      const msPerToken = median(answers[level]!.map(({ decodeMs }) => decodeMs)) / (flags.outputTokens - 1);
      const gigabytesPerSecond = bytesPerToken / msPerToken / 1e6;
      return {
        pruningRate,
        ttftMs: median(answers[level]!.map(({ firstMs }) => firstMs)),
        msPerToken,
        tokensPerSecond: 1000 / msPerToken,
        bytesPerToken,
        gigabytesPerSecond,
        shareOfBandwidth: gigabytesPerSecond / best,
      };
    }),
  };
  console.log(flags.json ? JSON.stringify(result, null, 2) : format(result, flags));
  if (!stock && result.rateChangeBytes !== 0) {
    throw new Error(`answers at all rates took ${result.rateChangeBytes} bytes of the device's memory, wanted 0`);
  }
}

/** Where the time of steps goes, run node by node, each waited for. */
async function profileDevice(artefact: Artefact, chosen: ChosenDevice, flags: DeviceBenchFlags): Promise<void> {
  const ours = chosen.operators !== null;
  const kinds = ours ? deviceKinds(artefact, { lanes: flags.slots, context: flags.promptTokens }) : null;
  const sizes = { context: flags.promptTokens, prefillTokens: flags.promptTokens, batches: ours ? [1, 8] : [1] };
  const { times, providers } = await withTimeline(async (prefix) => {
    using decoder = await open(artefact, chosen, flags, prefix);
    return await profileSteps(decoder, sizes, { afterOthers: true, ...(kinds && { kindOf: kinds.kindOf }) });
  });
  console.log(describeDevice(chosen));
  console.log(`nodes by provider: ${[...providers].map(([name, count]) => `${name} ${count}`).join(", ")}`);
  if (flags.json) console.log(JSON.stringify(Object.fromEntries(times)));
  else console.log(formatProfile(`${artefact.name}, rate 0, every launch waited for`, times, kinds?.bytesOf));
}

function maxTokensOf({ promptTokens, outputTokens }: DeviceBenchFlags): number {
  return promptTokens + outputTokens;
}

function open(
  artefact: Artefact,
  { operators }: ChosenDevice,
  flags: DeviceBenchFlags,
  profilePrefix?: string,
): Promise<Decoder> {
  return openDecoder(openRuntime(), {
    plan: artefact.plan,
    weights: artefact.weights(),
    folder: artefact.folder,
    lanes: flags.slots,
    maxTokens: maxTokensOf(flags),
    maxRows: Math.max(flags.promptTokens, flags.slots),
    threads: 1,
    device: "cuda",
    operators,
    ...(profilePrefix !== undefined && { profilePrefix }),
  });
}

/** Answers a prompt in so many sequences together, one at each of the given levels. */
async function answer(
  decoder: Decoder,
  levels: readonly number[],
  { promptTokens, outputTokens }: DeviceBenchFlags,
): Promise<Answer> {
  const prompt = Int32Array.from({ length: promptTokens }, (_, i) => (7 * i + 1) % decoder.plan.config.vocabSize);
  const sequences = levels.map((level) => decoder.openSequence(level));
  try {
    const start = performance.now();
    const next: number[] = [];
    for (const sequence of sequences) {
      const [logits] = await decoder.step([{ sequence, tokens: prompt, logits: "last" }]);
      next.push(decoder.likeliest(0) ?? largest(logits!));
    }
    const first = performance.now();
    for (let token = 1; token < outputTokens; token++) {
      const logits = await decoder.step(
        sequences.map((sequence, index) => ({ sequence, tokens: [next[index]!], logits: "last" as const })),
      );
      logits.forEach((own, index) => next[index] = decoder.likeliest(index) ?? largest(own));
    }
    return { firstMs: first - start, decodeMs: performance.now() - first };
  } finally {
    for (const sequence of sequences) sequence.close();
  }
}

/** Stock operators leave it to the host to look. */
function largest(logits: Float32Array): number {
  let best = 0;
  for (let token = 1; token < logits.length; token++) if (logits[token]! > logits[best]!) best = token;
  return best;
}

function format(
  result: {
    model: string;
    device: string;
    openSeconds: number;
    copyGBps: number;
    bandwidthGBps: number;
    weightBytes: number;
    weightsToHalf: number;
    poolBytes: number;
    openedBytes: number;
    rateChangeBytes: number;
    blockSize: number;
    batches: readonly { sequences: number; tokensPerSecond: number }[];
    levels: readonly {
      pruningRate: number;
      ttftMs: number;
      msPerToken: number;
      tokensPerSecond: number;
      bytesPerToken: number;
      gigabytesPerSecond: number;
      shareOfBandwidth: number;
    }[];
  },
  { rounds, promptTokens, outputTokens }: DeviceBenchFlags,
): string {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(3)} GB`;
  const rows = result.levels.map((level) => [
    `${Math.round(level.pruningRate * 100)} %`,
    level.ttftMs.toFixed(2),
    level.msPerToken.toFixed(3),
    level.tokensPerSecond.toFixed(1),
    (level.bytesPerToken / 1e6).toFixed(1),
    level.gigabytesPerSecond.toFixed(0),
    `${Math.round(level.shareOfBandwidth * 100)} %`,
  ]);
  return [
    result.device,
    `${result.model}, blocks of ${result.blockSize}, ${promptTokens} + ${outputTokens} tokens, medians of ${rounds} rounds, ` +
    `opened in ${result.openSeconds.toFixed(1)} s`,
    table(["rate", "first token ms", "ms/token", "tokens/s", "MB/token", "GB/s", "of bandwidth"], rows),
    `bandwidth ${result.bandwidthGBps.toFixed(0)} GB/s; a copy inside the memory reads and writes ` +
    `${result.copyGBps.toFixed(0)} GB/s`,
    `weights ${gigabytes(result.weightBytes)}, ${result.weightsToHalf.toFixed(4)} of half precision's; opening took ` +
    `${gigabytes(result.openedBytes)} of the device's memory, ${gigabytes(result.poolBytes)} of it for caches; ` +
    `answers at all rates took ${result.rateChangeBytes} bytes more`,
    ...result.batches.map(({ sequences, tokensPerSecond }) =>
      `${sequences} sequences at rate 0: ${tokensPerSecond.toFixed(0)} tokens/s in all`
    ),
  ].join("\n");
}
