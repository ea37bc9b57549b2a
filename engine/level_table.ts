import type { StepRunner } from "./step_runner.ts";

/** What steps of one sequence cost at one level. */
export interface LevelCosts {
  /** One decode step. */
  readonly stepMs: number;
  /** Prefill chunks by size, the smallest first. */
  readonly chunks: readonly { readonly rows: number; readonly ms: number }[];
}

/** Costs per level, the full model first. */
export type LevelTable = readonly LevelCosts[];

/** Time of one prefill chunk: on the line between the measured sizes, a decode step being a chunk of one row. */
export function chunkMs({ stepMs, chunks }: LevelCosts, rows: number): number {
  let below = { rows: 1, ms: stepMs };
  for (const chunk of chunks) {
    if (rows <= chunk.rows) {
      const share = chunk.rows === below.rows ? 1 : (rows - below.rows) / (chunk.rows - below.rows);
      return below.ms + share * (chunk.ms - below.ms);
    }
    below = chunk;
  }
  return below.ms * rows / below.rows;
}

/** Time to the first token of a prompt that is alone: full chunks, then the rest. */
export function prefillMs(costs: LevelCosts, promptTokens: number): number {
  const full = costs.chunks.at(-1)!.rows;
  const rest = promptTokens % full;
  return Math.floor(promptTokens / full) * chunkMs(costs, full) + (rest === 0 ? 0 : chunkMs(costs, rest));
}

/** Time of all tokens of a request that is alone. The first comes with the last prefill chunk. */
export function requestMs(costs: LevelCosts, promptTokens: number, newTokens: number): number {
  return prefillMs(costs, promptTokens) + Math.max(0, newTokens - 1) * costs.stepMs;
}

export interface MeasureOptions {
  readonly levels: number;
  readonly prefillChunk: number;
  /** Milliseconds. */
  readonly now: () => number;
  /** Time after which no other round begins; there is one at least. */
  readonly budgetMs: number;
  /** Called when a level has been measured for the first time. */
  readonly onLevel?: (level: number) => void;
}

/** Rows of the small chunk. */
const SMALL_CHUNK = 16;

/** Decode steps are short, so each measurement takes the mean of several. */
const STEPS = 4;

const MOST_ROUNDS = 15;

/**
 * Runs steps at every level and notes their median times. No sequence may be running.
 *
 * All levels are measured in turn, round by round, so that what else the machine does hits all of them alike. A larger
 * rate does a part of the work of a smaller one; where it was measured slower, that is noise, and both get their mean.
 */
export async function measureLevels(runner: StepRunner, options: MeasureOptions): Promise<LevelTable> {
  const { levels, now, budgetMs, onLevel } = options;
  const full = Math.min(options.prefillChunk, runner.maxTokens);
  const sizes = full > SMALL_CHUNK ? [SMALL_CHUNK, full] : [full];
  const steps = Math.min(STEPS, runner.maxTokens);

  /** Mean time of steps with so many rows each, on a sequence of their own. */
  const timed = async (level: number, rows: number, steps: number) => {
    const sequence = runner.openSequence(level);
    try {
      const tokens = new Int32Array(rows);
      const start = now();
      for (let i = 0; i < steps; i++) await runner.step([{ sequence, tokens, logits: "last" }]);
      return (now() - start) / steps;
    } finally {
      sequence.close();
    }
  };

  // The first steps read the weights from disk and grow the runtime's memory.
  await timed(0, full, 1);
  await timed(0, 1, steps);
  const times = Array.from(
    { length: levels },
    () => ({ step: [] as number[], chunks: sizes.map(() => [] as number[]) }),
  );
  const end = now() + budgetMs;
  for (let round = 0; round === 0 || (round < MOST_ROUNDS && now() < end); round++) {
    for (const [level, { step, chunks }] of times.entries()) {
      for (const [index, rows] of sizes.entries()) chunks[index]!.push(await timed(level, rows, 1));
      step.push(await timed(level, 1, steps));
      if (round === 0) onLevel?.(level);
    }
  }
  const stepMs = neverRising(times.map(({ step }) => median(step)));
  const chunkMs = sizes.map((_, index) => neverRising(times.map(({ chunks }) => median(chunks[index]!))));
  return stepMs.map((ms, level) => ({
    stepMs: ms,
    chunks: sizes.map((rows, index) => ({ rows, ms: chunkMs[index]![level]! })),
  }));
}

/** The nearest values, in the sum of squares, that never rise: neighbours that do are given their mean. */
export function neverRising(values: readonly number[]): number[] {
  const pools: { mean: number; count: number }[] = [];
  for (const value of values) {
    let pool = { mean: value, count: 1 };
    for (let last = pools.at(-1); last !== undefined && last.mean < pool.mean; last = pools.at(-1)) {
      const count = last.count + pool.count;
      pool = { mean: (last.mean * last.count + pool.mean * pool.count) / count, count };
      pools.pop();
    }
    pools.push(pool);
  }
  return pools.flatMap(({ mean, count }) => Array.from({ length: count }, () => mean));
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}
