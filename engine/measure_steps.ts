import { neverRising } from "./never_rising.ts";
import type { StepTable } from "./step_costs.ts";
import type { StepRunner } from "./step_runner.ts";

export interface MeasureOptions {
  /** The prepared rates, 0 first. */
  readonly pruningRates: readonly number[];
  /** Prompt rows of one step. */
  readonly prefillChunk: number;
  /** Milliseconds. */
  readonly now: () => number;
  /** Time after which nothing is repeated any more. */
  readonly budgetMs: number;
  /** Called from time to time. @param share Of what must be measured, 0 to 1. */
  readonly onProgress?: (share: number) => void;
}

/** Chunks that are measured below the full one. */
const SMALL_CHUNKS = [16, 64];

/** Decode steps are short, so each measurement takes the mean of several. */
const STEPS = 4;

/** Times that everything is measured, at least and at most. */
const [FEWEST_ROUNDS, MOST_ROUNDS] = [3, 15];

/** Full chunks of the long context. */
const LONG_CHUNKS = 4;

/**
 * Single rows with a short and with a long context. Their difference is a few percent of a step, while one step in ten
 * takes a quarter longer on a shared machine: so many that the lower quartiles tell them apart.
 */
const CONTEXT_STEPS = 12;

/**
 * Runs steps of several sizes at every level and notes the lower quartiles of their times: what they cost with the
 * machine to themselves, for others only ever make a step longer. No sequence may be running.
 *
 * All are measured in turn, round by round, so that what else the machine does hits all of them alike. A narrower level
 * does a part of the work of a wider one, its context included; where it was measured slower, that is noise, and both
 * get their mean. Where a round would take longer than the whole budget, only single rows are measured at all levels,
 * other sizes at the first and the last level, and the levels between lie on lines over their rates.
 */
export async function measureSteps(runner: StepRunner, options: MeasureOptions): Promise<StepTable> {
  const { pruningRates, now, budgetMs, onProgress } = options;
  const chunk = Math.min(options.prefillChunk, runner.maxTokens);
  const slots = runner.freeSlots;
  const batches = [1, 2, 4, 8, 16, 32].filter((count) => count < slots).concat(slots);
  const chunks = SMALL_CHUNKS.filter((rows) => rows < chunk).concat(chunk).filter((rows) => rows > slots);
  const rows = [...batches, ...chunks];
  const last = pruningRates.length - 1;
  const steps = Math.max(1, Math.min(STEPS, runner.maxTokens - 1));
  const times = pruningRates.map(() => rows.map(() => [] as number[]));

  const measure = async (level: number, size: number) => {
    const ms = size < batches.length
      ? await decodeMs(runner, { level, count: rows[size]!, steps, now })
      : await prefillMs(runner, { level, rows: rows[size]!, now });
    times[level]![size]!.push(ms);
  };

  // The first steps read the weights from disk and grow the runtime's memory.
  await prefillMs(runner, { level: 0, rows: chunk, now });
  await decodeMs(runner, { level: 0, count: slots, steps, now });

  const start = now();
  const ends = last === 0 ? [0] : [0, last];
  for (const level of ends) for (const size of rows.keys()) await measure(level, size);
  const roundMs = (now() - start) * pruningRates.length / ends.length;
  const whole = roundMs <= budgetMs / 2;
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const elapsed = now() - start;
    if (round >= FEWEST_ROUNDS && elapsed > budgetMs) break;
    for (const level of pruningRates.keys()) {
      const isEnd = ends.includes(level);
      if (isEnd && round === 0) continue;
      for (const size of rows.keys()) if (whole || isEnd || size === 0) await measure(level, size);
    }
    onProgress?.(Math.min(1, (round + 1) / FEWEST_ROUNDS));
  }

  const measured = times.map((sizes) => sizes.map((ms) => ms.length === 0 ? null : lowerQuartile(ms)));
  const filled = measured.map((sizes, level) =>
    sizes.map((ms, size) => ms ?? between(measured[0]![size]!, measured[last]![size]!, level, pruningRates))
  );
  const falling = rows.map((_, size) => neverRising(filled.map((sizes) => sizes[size]!)));
  const contexts: { decodeMs: number; prefillMs: number }[] = [];
  for (const level of ends) contexts.push(await contextMs(runner, { level, chunk, now }));
  const overLevels = (of: (costs: typeof contexts[number]) => number) => {
    const settled = neverRising(contexts.map(of));
    return pruningRates.map((_, level) => between(settled[0]!, settled.at(-1)!, level, pruningRates));
  };
  return {
    rows,
    stepMs: pruningRates.map((_, level) => falling.map((levels) => levels[level]!)),
    decodeContextMs: overLevels(({ decodeMs }) => decodeMs),
    prefillContextMs: overLevels(({ prefillMs }) => prefillMs),
  };
}

interface Measurement {
  readonly level: number;
  readonly now: () => number;
}

/** Mean time of decode steps of so many sequences. */
async function decodeMs(
  runner: StepRunner,
  { level, count, steps, now }: Measurement & { count: number; steps: number },
): Promise<number> {
  const sequences = Array.from({ length: count }, () => runner.openSequence(level));
  try {
    const step = () => runner.step(sequences.map((sequence) => ({ sequence, tokens: [0], logits: "last" as const })));
    // Sequences that are new to their lanes are bound in the first step.
    await step();
    const start = now();
    for (let i = 0; i < steps; i++) await step();
    return (now() - start) / steps;
  } finally {
    for (const sequence of sequences) sequence.close();
  }
}

async function prefillMs(
  runner: StepRunner,
  { level, rows, now }: Measurement & { rows: number },
): Promise<number> {
  const sequence = runner.openSequence(level);
  try {
    const start = now();
    await runner.step([{ sequence, tokens: new Int32Array(rows), logits: "last" }]);
    return now() - start;
  } finally {
    sequence.close();
  }
}

/**
 * What one token of context adds to a decode row and to a prompt row, of one sequence that grows: single rows while it
 * is short, chunks, single rows again.
 */
async function contextMs(
  runner: StepRunner,
  { level, chunk, now }: Measurement & { chunk: number },
): Promise<{ decodeMs: number; prefillMs: number }> {
  const chunks = Math.min(LONG_CHUNKS, Math.floor((runner.maxTokens - 2 * (1 + CONTEXT_STEPS)) / chunk));
  if (chunks < 2) return { decodeMs: 0, prefillMs: 0 };
  const sequence = runner.openSequence(level);
  const timed = async (rows: number) => {
    const start = now();
    await runner.step([{ sequence, tokens: new Int32Array(rows), logits: "last" }]);
    return now() - start;
  };
  const times = async (count: number, rows: number) => {
    const ms: number[] = [];
    for (let i = 0; i < count; i++) ms.push(await timed(rows));
    return ms;
  };
  try {
    await timed(1);
    const short = await times(CONTEXT_STEPS, 1);
    const prompt = await times(chunks, chunk);
    await timed(1);
    const long = await times(CONTEXT_STEPS, 1);
    return {
      decodeMs: Math.max(0, (lowerQuartile(long) - lowerQuartile(short)) / (chunks * chunk + 1 + CONTEXT_STEPS)),
      prefillMs: Math.max(0, medianSlope(prompt) / (chunk * chunk)),
    };
  } finally {
    sequence.close();
  }
}

/** Of values at equal distances, the rise from one to the next: the median over all pairs (Theil and Sen). */
function medianSlope(values: readonly number[]): number {
  const slopes = values.flatMap((from, i) => values.slice(i + 1).map((to, j) => (to - from) / (j + 1)));
  return median(slopes);
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}

/** Between what was measured at the first and at the last level, by the levels' rates. */
function between(first: number, last: number, level: number, pruningRates: readonly number[]): number {
  const largest = pruningRates.at(-1)!;
  return largest === 0 ? first : first + (last - first) * pruningRates[level]! / largest;
}

/** A quarter of the values are below. */
function lowerQuartile(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[(values.length - 1) >> 2]!;
}
