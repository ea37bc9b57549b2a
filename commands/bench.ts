/** `deno task bench`: what decoding and prefill cost at each rate, against what memory allows. */

import { z } from "zod";
import { ReadLoop } from "../kernels/read_bandwidth.ts";
import { type Artefact, openArtefact } from "../models/artefact.ts";
import { type Decoder, openDecoder, type Sequence } from "../models/decoder.ts";
import type { BlockSize } from "../models/int4.ts";
import type { ShapeName } from "../models/known_shapes.ts";
import { openRuntime } from "../onnx/mod.ts";
import { benchDevice } from "./bench/bench_device.ts";
import { formatProfile, profileSteps, withTimeline } from "./bench/step_profile.ts";
import { chooseDevice, DeviceFlag } from "./device.ts";
import { parseFlags } from "./flags.ts";
import { physicalCores } from "./physical_cores.ts";
import { type ProgressBar, progressBar } from "./progress_bar.ts";
import { randomArtefact } from "./random_artefacts.ts";
import { runCommand } from "./run_command.ts";
import { mean, median } from "./statistics.ts";
import { table } from "./text_table.ts";

/** Shapes that can be made and run, the last ones where there is memory for it; the others are for size reports. */
const SHAPES = [
  "smollm2-135m",
  "qwen2.5-0.5b",
  "llama-3.2-1b",
  "mamba2-1.3b",
  "llama-3.1-8b",
] as const satisfies readonly ShapeName[];

const Flags = z.strictObject({
  model: z.string().default("artifacts/demo").describe("Artefact"),
  shape: z.enum(SHAPES).optional().describe("Random weights in this model's dimensions instead"),
  blockSize: z.enum(["32", "64", "128"]).default("32").describe("Weights that share a scale, for --shape"),
  rounds: z.int().min(1).max(1000).default(11).describe("Times that everything is run in turn; medians are printed"),
  context: z.int().min(1).max(100_000).default(64).describe("Tokens before the decoded ones"),
  longContext: z.int().min(1).max(100_000).default(4096).describe(
    "Tokens of the context that --context is compared with, for models with Mamba blocks",
  ),
  prefillTokens: z.int().min(1).max(100_000).default(256).describe("Tokens of the prefill"),
  prefillContext: z.int().min(1).max(100_000).optional().describe(
    "Tokens before a further prefill, as where a long prompt goes on",
  ),
  device: DeviceFlag,
  promptTokens: z.int().min(1).max(100_000).default(512).describe("Tokens of a prompt, on a CUDA device"),
  outputTokens: z.int().min(2).max(100_000).default(128).describe("Tokens of an answer, on a CUDA device"),
  rate: z.array(z.string().regex(/^\d*\.?\d+$/, "Expected a pruning rate such as 0.15")).default([]).describe(
    "A pruning rate to measure on a CUDA device; all if none is given",
  ),
  bandwidth: z.number().min(1).optional().describe("GB/s of a CUDA device's memory by its data sheet, to compare with"),
  slots: z.int().min(8).max(64).default(8).describe("Slots of the session, as the service opens it"),
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads that compute"),
  profile: z.boolean().default(false).describe("Prints the time per kind of operator instead"),
  json: z.boolean().default(false).describe("Prints JSON"),
});
type Flags = z.output<typeof Flags>;

/** Sequences of the batches that are compared with one alone. */
const BATCHES = [4, 8] as const;

/** Decode steps of a measurement; the first ones after a change of sequence warm it up. */
const [WARM_UP, STEPS] = [2, 4];

/** Chunks of `--prefill-tokens` behind `--prefill-context`, one after another. */
const CHUNKS = 3;

interface Subject {
  readonly artefact: Artefact;
  readonly decoder: Decoder;
}

/** Milliseconds of everything measured: an entry a round, and where steps take turns, one a step. */
interface Samples {
  /** Steps of the plain graph and of the elastic one at the first rate in turn. */
  readonly plain: { readonly plain: number[]; readonly elastic: number[] };
  /**
   * Per level, steps of it and of the first rate in turn, since memory is faster at one moment than at the next, and for each
   * step what the read loop gave in the pass nearest to it, in bytes per second.
   */
  readonly decode: { readonly own: number[]; readonly first: number[]; readonly readLoop: number[] }[];
  /** One sequence at the first rate; per entry of `BATCHES`, so many. */
  readonly one: number[];
  readonly batches: number[][];
  /** The same elastic artefact with stock operators, at the first rate: one sequence, the batches, a prefill. */
  readonly stock: { readonly decode: number[]; readonly batches: number[][]; readonly prefill: number[] };
  /** A step of two sequences in turn: both at the first rate, both at the last, one at each. */
  readonly inTurn: { readonly first: number[]; readonly last: number[]; readonly both: number[] };
  readonly prefill: number[][];
  /** Chunks behind the prefill context at the first rate; empty without one. */
  readonly further: { readonly own: number[]; readonly stock: number[] };
  /** Decode steps behind the short context and behind the long one; only of models with Mamba blocks. */
  readonly contexts: { readonly short: number[]; readonly long: number[] };
}

await runCommand(async () => {
  const flags = parseFlags(Flags, Deno.args, {
    name: "deno task bench",
    summary: "Measures decode and prefill at each rate, in turn with a loop that reads memory. Ratios are the result.",
  });
  const { shape } = flags;
  const random = shape === undefined ? null : { shape, blockSize: Number(flags.blockSize) as BlockSize };
  if (random === null) await openArtefact(flags.model); // better now than after kernels were compiled
  // A profile waits for every launch: the driver reads this when it starts.
  if (flags.profile && flags.device !== "cpu") Deno.env.set("CUDA_LAUNCH_BLOCKING", "1");
  const chosen = await chooseDevice(flags.device, openRuntime());
  if (chosen.device !== "cuda" && (flags.rate.length > 0 || flags.bandwidth !== undefined)) {
    throw new RangeError("--rate and --bandwidth are for a CUDA device: the CPU's rates are all measured, in turn");
  }
  const folder = random === null ? flags.model : await randomArtefact(random);
  if (chosen.device === "cuda") return await benchDevice(folder, chosen, flags);
  const { operators } = chosen;
  if (flags.profile) return await profile(folder, operators, flags);
  const elastic = await open(folder, operators, flags);
  const plain = random === null ? null : await open(await randomArtefact({ ...random, plain: true }), operators, flags);
  const stock = operators === null ? null : await open(folder, null, flags);
  const samples = await measure({ elastic, plain, stock }, operators, flags);
  const result = { ...summarize(elastic, samples, flags), kernels: chosen.kernels };
  console.log(flags.json ? JSON.stringify(result, null, 2) : format(result));
  elastic.decoder.close();
  plain?.decoder.close();
  stock?.decoder.close();
});

/**
 * Prints where the time of a step goes, with our own operators, if there are any, and with stock ones. To be told apart our
 * own are nodes here; as one chain, which serves, they take less.
 */
async function profile(folder: string, operators: string | null, flags: Flags): Promise<void> {
  const lowerings = operators === null ? [null] : [operators, null];
  for (const lowering of lowerings) {
    const { times: profile } = await withTimeline(async (prefix) => {
      const { decoder } = await open(folder, lowering, flags, prefix);
      try {
        return await profileSteps(decoder, flags);
      } finally {
        decoder.close();
      }
    });
    const name = lowering === null ? "stock operators" : "own operators, each a node";
    console.log(
      flags.json ? JSON.stringify({ operators: name, ...Object.fromEntries(profile) }) : formatProfile(name, profile),
      "\n",
    );
  }
}

async function open(
  folder: string,
  operators: string | null,
  flags: Flags,
  profilePrefix?: string,
): Promise<Subject> {
  const { slots, threads, context, longContext, prefillTokens, prefillContext, rounds } = flags;
  const artefact = await openArtefact(folder);
  const longest = hasStates(artefact) ? Math.max(context, longContext) : context;
  const decoder = await openDecoder(openRuntime(), {
    plan: artefact.plan,
    weights: artefact.weights(),
    folder,
    lanes: slots,
    maxTokens: Math.max(longest + rounds * (WARM_UP + STEPS), (prefillContext ?? 0) + CHUNKS * prefillTokens),
    maxRows: Math.max(prefillTokens, context, slots),
    threads,
    operators,
    ...(profilePrefix !== undefined && { profilePrefix }),
  });
  return { artefact, decoder };
}

/** Runs everything in turn, round after round, so that a slow moment of the machine falls on all alike. */
async function measure(
  { elastic, plain, stock }: { elastic: Subject; plain: Subject | null; stock: Subject | null },
  operators: string | null,
  flags: Flags,
): Promise<Samples> {
  const levels = elastic.artefact.levels.map((_, level) => level);
  const samples: Samples = {
    plain: { plain: [], elastic: [] },
    decode: levels.map(() => ({ own: [], first: [], readLoop: [] })),
    one: [],
    batches: BATCHES.map(() => []),
    stock: { decode: [], batches: BATCHES.map(() => []), prefill: [] },
    inTurn: { first: [], last: [], both: [] },
    prefill: levels.map(() => []),
    further: flags.prefillContext === undefined
      ? { own: [], stock: [] }
      : await measureFurtherChunks(elastic.decoder, stock?.decoder ?? null, flags.prefillContext, flags),
    contexts: hasStates(elastic.artefact) ? await measureContexts(elastic.decoder, flags) : { short: [], long: [] },
  };
  using readLoop = new ReadLoop(flags.threads, operators);
  using bar = progressBar("bench");
  for (let round = 0; round < flags.rounds; round++) {
    const inTurn = (...turns: Turn[]) => stepsInTurn(turns, flags.context, round);
    const elasticAt = (level: number) => ({ decoder: elastic.decoder, level });
    if (plain !== null) {
      const [ofPlain, ofElastic] = await inTurn({ decoder: plain.decoder, level: 0 }, elasticAt(0));
      samples.plain.plain.push(...ofPlain!);
      samples.plain.elastic.push(...ofElastic!);
    }
    for (const level of levels) {
      const before = await readLoop.measure();
      const [first, own] = await inTurn(elasticAt(0), elasticAt(level));
      const after = await readLoop.measure();
      samples.decode[level]!.first.push(...first!);
      samples.decode[level]!.own.push(...own!);
      samples.decode[level]!.readLoop.push(...own!.map((_, step) => step < STEPS / 2 ? before : after));
      bar.update((round + level / levels.length) / flags.rounds, `decode at level ${level}`);
    }
    samples.one.push(await decodeMs(elastic.decoder, [0], flags.context));
    if (stock !== null) samples.stock.decode.push(await decodeMs(stock.decoder, [0], flags.context));
    for (const [i, batch] of BATCHES.entries()) {
      samples.batches[i]!.push(await decodeMs(elastic.decoder, Array(batch).fill(0), flags.context));
      if (stock === null) continue;
      samples.stock.batches[i]!.push(await decodeMs(stock.decoder, Array(batch).fill(0), flags.context));
    }
    const last = levels.length - 1;
    for (const [kind, pair] of [["first", [0, 0]], ["last", [last, last]], ["both", [0, last]]] as const) {
      samples.inTurn[kind].push(mean((await inTurn(...pair.map(elasticAt))).map(median)));
    }
    // A prefill is long and needs no round of its own every time.
    if (round % 4 === 0) {
      for (const level of levels) samples.prefill[level]!.push(await prefillMs(elastic.decoder, level, flags));
      if (stock !== null) samples.stock.prefill.push(await prefillMs(stock.decoder, 0, flags));
    }
  }
  return samples;
}

/** Mean time of a decode step of so many sequences together, one at each of the given levels. */
async function decodeMs(decoder: Decoder, levels: readonly number[], context: number): Promise<number> {
  const sequences: Sequence[] = levels.map((level) => decoder.openSequence(level));
  try {
    for (const sequence of sequences) {
      await decoder.step([{ sequence, tokens: new Int32Array(context).fill(1), logits: "none" }]);
    }
    const step = () => decoder.step(sequences.map((sequence) => ({ sequence, tokens: [1], logits: "last" as const })));
    for (let i = 0; i < WARM_UP; i++) await step();
    const start = performance.now();
    for (let i = 0; i < STEPS; i++) await step();
    return (performance.now() - start) / STEPS;
  } finally {
    for (const sequence of sequences) sequence.close();
  }
}

interface Turn {
  readonly decoder: Decoder;
  readonly level: number;
}

/** Milliseconds of `STEPS` decode steps of each of some sequences that take turns. Who begins changes, so that it does not matter. */
async function stepsInTurn(turns: readonly Turn[], context: number, round: number): Promise<number[][]> {
  const order = turns.map((_, index) => (index + round) % turns.length);
  const sequences: Sequence[] = [];
  const times: number[][] = turns.map(() => []);
  try {
    for (const index of order) {
      const { decoder, level } = turns[index]!;
      const sequence = sequences[index] = decoder.openSequence(level);
      await decoder.step([{ sequence, tokens: new Int32Array(context).fill(1), logits: "none" }]);
    }
    for (let i = -WARM_UP; i < STEPS; i++) {
      order.reverse();
      for (const index of order) {
        const start = performance.now();
        await turns[index]!.decoder.step([{ sequence: sequences[index]!, tokens: [1], logits: "last" }]);
        if (i >= 0) times[index]!.push(performance.now() - start);
      }
    }
    return times;
  } finally {
    for (const sequence of sequences) sequence?.close();
  }
}

function hasStates({ plan }: Artefact): boolean {
  return plan.layers.flat().some(({ kind }) => kind === "mamba");
}

/** Decode steps of two sequences in turn, one with a short and one with a long context behind it. */
async function measureContexts(
  decoder: Decoder,
  { context, longContext, rounds }: Flags,
): Promise<Samples["contexts"]> {
  const sequences = [context, longContext].map((length) => ({ length, sequence: decoder.openSequence(0) }));
  using bar = progressBar("bench");
  try {
    for (const { length, sequence } of sequences) {
      await extend(decoder, sequence, length, bar);
    }
    const times: number[][] = [[], []];
    for (let round = 0; round < rounds; round++) {
      for (const [index, { sequence }] of sequences.entries()) {
        const step = () => decoder.step([{ sequence, tokens: [1], logits: "last" }]);
        for (let i = 0; i < WARM_UP; i++) await step();
        const start = performance.now();
        for (let i = 0; i < STEPS; i++) await step();
        times[index]!.push((performance.now() - start) / STEPS);
      }
    }
    return { short: times[0]!, long: times[1]! };
  } finally {
    for (const { sequence } of sequences) sequence.close();
  }
}

/** Chunks of a long prompt in turn with those of stock operators, each behind the ones before it. */
async function measureFurtherChunks(
  own: Decoder,
  stock: Decoder | null,
  context: number,
  { prefillTokens }: Flags,
): Promise<Samples["further"]> {
  const samples: Samples["further"] = { own: [], stock: [] };
  const subjects = [
    { decoder: own, times: samples.own },
    ...(stock === null ? [] : [{ decoder: stock, times: samples.stock }]),
  ].map(({ decoder, times }) => ({ decoder, times, sequence: decoder.openSequence(0) }));
  using bar = progressBar("bench");
  try {
    for (const { decoder, sequence } of subjects) await extend(decoder, sequence, context, bar);
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      for (const { decoder, sequence, times } of subjects) {
        const start = performance.now();
        await decoder.step([{ sequence, tokens: new Int32Array(prefillTokens).fill(1), logits: "last" }]);
        times.push(performance.now() - start);
      }
    }
    return samples;
  } finally {
    for (const { sequence } of subjects) sequence.close();
  }
}

async function extend(decoder: Decoder, sequence: Sequence, length: number, bar: ProgressBar): Promise<void> {
  while (sequence.length < length) {
    const tokens = new Int32Array(Math.min(decoder.maxRows, length - sequence.length)).fill(1);
    await decoder.step([{ sequence, tokens, logits: "none" }]);
    bar.update(sequence.length / length, `a context of ${length} tokens`);
  }
}

async function prefillMs(decoder: Decoder, level: number, { prefillTokens }: Flags): Promise<number> {
  const sequence = decoder.openSequence(level);
  try {
    const start = performance.now();
    await decoder.step([{ sequence, tokens: new Int32Array(prefillTokens).fill(1), logits: "last" }]);
    return performance.now() - start;
  } finally {
    sequence.close();
  }
}

function summarize({ artefact }: Subject, samples: Samples, flags: Flags) {
  const { plain } = samples;
  const read = median(samples.decode.flatMap(({ readLoop }) => readLoop));
  const wholeBytes = stepBytes(artefact.levels[0]!);
  return {
    model: flags.shape ?? artefact.name,
    threads: flags.threads,
    blockSize: artefact.blockSize,
    rounds: flags.rounds,
    prefillTokens: flags.prefillTokens,
    readLoopGBps: read / 1e9,
    elasticToPlain: plain.plain.length === 0 ? null : medianRatio(plain.elastic, plain.plain),
    batchSpeedups: BATCHES.map((sequences, i) => ({
      sequences,
      speedup: sequences / medianRatio(samples.batches[i]!, samples.one),
    })),
    /** How many times as long stock operators take. */
    stockToNative: samples.stock.decode.length === 0 ? null : {
      oneRow: medianRatio(samples.stock.decode, samples.one),
      batches: BATCHES.map((sequences, i) => ({
        sequences,
        ratio: medianRatio(samples.stock.batches[i]!, samples.batches[i]!),
      })),
      prefill: medianRatio(samples.stock.prefill, samples.prefill[0]!),
    },
    further: flags.prefillContext === undefined ? null : {
      behind: flags.prefillContext,
      ms: median(samples.further.own),
      stockToNative: samples.further.stock.length === 0
        ? null
        : medianRatio(samples.further.stock, samples.further.own),
    },
    rateChange: medianRatio(
      samples.inTurn.both,
      samples.inTurn.first.map((first, i) => (first + samples.inTurn.last[i]!) / 2),
    ),
    context: samples.contexts.long.length === 0 ? null : {
      short: flags.context,
      long: flags.longContext,
      longToShort: medianRatio(samples.contexts.long, samples.contexts.short),
    },
    levels: artefact.levels.map((variant, level) => {
      const { pruningRate, bytesPerToken, stateBytesPerSequence } = variant;
      const { own, first, readLoop } = samples.decode[level]!;
      const ms = median(own);
      const bytes = stepBytes(variant);
      const toWhole = medianRatio(own, first);
      return {
        pruningRate,
        decodeMs: ms,
        tokensPerSecond: 1000 / ms,
        bytesPerToken,
        stateBytesPerSequence,
        bytesPerStep: bytes,
        gigabytesPerSecond: bytes / ms / 1e6,
        shareOfReadLoop: median(own.map((sample, i) => bytes / (sample / 1000) / readLoop[i]!)),
        toPrediction: toWhole / (bytes / wholeBytes),
        /** The same by the bytes of weights alone. */
        toWeights: toWhole / (bytesPerToken / artefact.levels[0]!.bytesPerToken),
        prefillTokensPerSecond: flags.prefillTokens / (median(samples.prefill[level]!) / 1000),
      };
    }),
  };
}

/** What a decode step of one sequence moves: it reads its weights, and reads and writes its states. */
function stepBytes(
  { bytesPerToken, stateBytesPerSequence }: { bytesPerToken: number; stateBytesPerSequence: number },
): number {
  return bytesPerToken + 2 * stateBytesPerSequence;
}

function format(result: ReturnType<typeof summarize> & { kernels: string }): string {
  const rows = result.levels.map((level) => [
    `${Math.round(level.pruningRate * 100)} %`,
    level.decodeMs.toFixed(2),
    level.tokensPerSecond.toFixed(1),
    (level.bytesPerStep / 1e6).toFixed(1),
    (level.stateBytesPerSequence / 1e6).toFixed(1),
    level.gigabytesPerSecond.toFixed(1),
    `${Math.round(level.shareOfReadLoop * 100)} %`,
    level.toPrediction.toFixed(3),
    level.toWeights.toFixed(3),
    level.prefillTokensPerSecond.toFixed(0),
  ]);
  const head = [
    "rate",
    "ms/token",
    "tokens/s",
    "MB/token",
    "MB of states",
    "GB/s",
    "of read loop",
    "to bytes",
    "to weights",
    "prefill tokens/s",
  ];
  return [
    `${result.model}, ${result.threads} threads, blocks of ${result.blockSize}, medians of ${result.rounds} rounds, ` +
    `kernels ${result.kernels}`,
    table(head, rows),
    `read loop ${result.readLoopGBps.toFixed(1)} GB/s`,
    `"to bytes": time against what the share of rate 0's bytes predicts, states read and written; "to weights": of the weights'`,
    ...(result.elasticToPlain === null ? [] : [
      `elastic graph at rate 0 against a plain one: ${result.elasticToPlain.toFixed(3)} × the time`,
    ]),
    ...(result.context === null ? [] : [
      `decode behind ${result.context.long} tokens: ${result.context.longToShort.toFixed(3)} × the time behind ` +
      `${result.context.short}`,
    ]),
    ...(result.further === null ? [] : [
      `${CHUNKS} chunks of ${result.prefillTokens} behind ${result.further.behind} tokens and each other: ` +
      `${result.further.ms.toFixed(0)} ms` +
      (result.further.stockToNative === null
        ? ""
        : `; stock operators take ${result.further.stockToNative.toFixed(2)} × the time`),
    ]),
    `steps at the first and the last rate in turn: ${result.rateChange.toFixed(3)} × the mean of the two`,
    ...result.batchSpeedups.map(({ sequences, speedup }) =>
      `${sequences} sequences together: ${speedup.toFixed(2)} × the tokens/s of one`
    ),
    ...(result.stockToNative === null ? [] : [
      `stock operators take, at rate 0: ${result.stockToNative.oneRow.toFixed(2)} × the time for one sequence, ` +
      result.stockToNative.batches.map(({ sequences, ratio }) => `${ratio.toFixed(2)} × for ${sequences}`).join(", ") +
      `, ${result.stockToNative.prefill.toFixed(2)} × for a prefill of ${result.prefillTokens}`,
    ]),
  ].join("\n");
}

/** Of what was measured side by side. */
function medianRatio(of: readonly number[], by: readonly number[]): number {
  return median(of.map((value, i) => value / by[i]!));
}
