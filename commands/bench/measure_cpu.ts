/** What `deno task bench` measures on the CPU. */

import { ReadLoop } from "../../kernels/read_bandwidth.ts";
import { type Artefact, openArtefact } from "../../models/artefact.ts";
import { type Decoder, openDecoder, type Sequence } from "../../models/decoder.ts";
import { openRuntime } from "../../onnx/mod.ts";
import { type ProgressBar, progressBar } from "../progress_bar.ts";
import { mean, median } from "../statistics.ts";

export interface CpuBenchFlags {
  readonly rounds: number;
  readonly context: number;
  readonly longContext: number;
  readonly prefillTokens: number;
  readonly prefillContext?: number | undefined;
  readonly slots: number;
  readonly threads: number;
}

/** Sequences of the batches that are compared with one alone. */
export const BATCHES = [4, 8] as const;

/** Decode steps of a measurement; the first ones after a change of sequence warm it up. */
const [WARM_UP, STEPS] = [2, 4];

/** Chunks of `--prefill-tokens` behind `--prefill-context`, one after another. */
export const CHUNKS = 3;

export interface Subject {
  readonly artefact: Artefact;
  readonly decoder: Decoder;
}

/** Milliseconds of everything measured: an entry a round, and where steps take turns, one a step. */
export interface Samples {
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

/** Opens an artefact with room for all that is measured, or profiled. */
export async function openSubject(
  folder: string,
  operators: string | null,
  flags: CpuBenchFlags,
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
export async function measureCpu(
  { elastic, plain, stock }: { elastic: Subject; plain: Subject | null; stock: Subject | null },
  operators: string | null,
  flags: CpuBenchFlags,
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
  { context, longContext, rounds }: CpuBenchFlags,
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
  { prefillTokens }: CpuBenchFlags,
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

async function prefillMs(decoder: Decoder, level: number, { prefillTokens }: CpuBenchFlags): Promise<number> {
  const sequence = decoder.openSequence(level);
  try {
    const start = performance.now();
    await decoder.step([{ sequence, tokens: new Int32Array(prefillTokens).fill(1), logits: "last" }]);
    return performance.now() - start;
  } finally {
    sequence.close();
  }
}
