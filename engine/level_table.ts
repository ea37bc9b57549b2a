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
  /** Aim for all measurements together; each is made once at least. */
  readonly budgetMs: number;
  readonly onLevel?: (level: number, costs: LevelCosts) => void;
}

/** Rows of the small chunk. */
const SMALL_CHUNK = 16;

/** Decode steps are short, so each measurement takes the mean of several. */
const STEPS = 4;

const MOST_REPEATS = 5;

/** Runs steps at every level and notes their median times. No sequence may be running. */
export async function measureLevels(runner: StepRunner, options: MeasureOptions): Promise<LevelTable> {
  const { levels, now, budgetMs, onLevel } = options;
  const full = Math.min(options.prefillChunk, runner.maxTokens);
  const sizes = full > SMALL_CHUNK ? [SMALL_CHUNK, full] : [full];

  const chunk = async (level: number, rows: number) => {
    const sequence = runner.openSequence(level);
    try {
      const start = now();
      await runner.step([{ sequence, tokens: new Int32Array(rows), logits: "last" }]);
      return now() - start;
    } finally {
      sequence.close();
    }
  };
  const decode = async (level: number) => {
    const sequence = runner.openSequence(level);
    try {
      const steps = Math.min(STEPS, runner.maxTokens);
      const start = now();
      for (let i = 0; i < steps; i++) await runner.step([{ sequence, tokens: [0], logits: "last" }]);
      return (now() - start) / steps;
    } finally {
      sequence.close();
    }
  };
  const shareMs = budgetMs / (levels * (1 + sizes.length));
  const repeated = async (measure: () => Promise<number>) => {
    const times: number[] = [];
    const end = now() + shareMs;
    do times.push(await measure()); while (times.length < MOST_REPEATS && now() < end);
    return median(times);
  };

  // The first steps read the weights from disk and grow the runtime's memory.
  await chunk(0, full);
  await decode(0);
  const table: LevelCosts[] = [];
  for (let level = 0; level < levels; level++) {
    const chunks = [];
    for (const rows of sizes) chunks.push({ rows, ms: await repeated(() => chunk(level, rows)) });
    table.push({ stepMs: await repeated(() => decode(level)), chunks });
    onLevel?.(level, table[level]!);
  }
  return table;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}
