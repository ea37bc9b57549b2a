import { Registry } from "prom-client";
import type { Sequence, StepEntry } from "../../models/decoder.ts";
import { Engine, type EngineOptions } from "../engine.ts";
import { BudgetError, QueueFullError } from "../errors.ts";
import type { GenerationEnd, GenerationRequest } from "../generation.ts";
import { NO_TARGETS } from "../limits.ts";
import { createMetrics, type Metrics } from "../metrics.ts";
import { createPolicy } from "../policies/mod.ts";
import type { StepPart, StepTable } from "../step_costs.ts";
import { Draws } from "./draws.ts";
import { type MachineCosts, meanStepMs, SharedMachine } from "./shared_machine.ts";
import { collect, toyRequest } from "./toy_engine.ts";
import { ToyRunner } from "./toy_runner.ts";

/** Rates of the virtual model. */
export const RATES = [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35];

/** Share of the virtual model that pruning can take from; embeddings and the head stay. */
const PRUNABLE = 0.85;

/** A model on a machine, and the work that it is given. */
export interface VirtualModel {
  /** What steps cost, as the service measured it. */
  readonly table: StepTable;
  /** What they cost in truth. */
  readonly machine: MachineCosts;
  /** Medians of the lengths of prompts and answers. */
  readonly promptTokens: number;
  readonly newTokens: number;
}

/** A table that is true at all times: measured while memory was slow, or where nobody else uses it. */
function steady(table: StepTable): Pick<VirtualModel, "table" | "machine"> {
  return { table, machine: { table, slowMemory: 1 } };
}

/** Short prompts to a decoder of half a billion parameters on a few cores: most of the time is decoding. */
export const DECODING: VirtualModel = {
  ...steady({
    rows: [1, 2, 4, 16, 64, 132],
    stepMs: RATES.map((rate) => [30, 33, 38, 75, 240, 480].map((ms) => ms * (1 - PRUNABLE * rate))),
    decodeContextMs: RATES.map((rate) => 0.004 * (1 - rate)),
    prefillContextMs: RATES.map((rate) => 0.004 * (1 - rate)),
  }),
  promptTokens: 32,
  newTokens: 24,
};

/**
 * Long prompts to a decoder of a billion parameters, as it was measured with native kernels on two cores: most of the
 * time is prefill, and pruning brings more there than in decoding.
 */
export const PREFILLING: VirtualModel = {
  ...steady({
    rows: [1, 2, 4, 16, 64, 132],
    stepMs: RATES.map((rate) =>
      [[15.9, 0.6], [16.1, 0.56], [17, 0.57], [31.5, 0.75], [107, 0.88], [219, 0.9]]
        .map(([ms, prunable]) => ms! * (1 - prunable! * rate))
    ),
    decodeContextMs: RATES.map((rate) => 0.0009 * (1 - rate)),
    prefillContextMs: RATES.map((rate) => 0.00026 * (1 - rate)),
  }),
  promptTokens: 128,
  newTokens: 32,
};

/**
 * Llama-3.2-1B's dimensions with native kernels on two cores, and the requests that `deno task replay` sends in the
 * README. The table is one that the service measured while memory was fast; in 22,000 of its steps a row alone took 1.0 or
 * 1.4 to 1.5 times that, two took 1.0 or 1.3 to 1.4, three 1.0 or 1.2 to 1.3, four 1.0 to 1.2, and prompts 0.95 to 1.1.
 */
export const REPLAYED: VirtualModel = {
  table: replayedTable([11.2, 12, 15.8, 34.5, 111.6, 220]),
  machine: { table: replayedTable([11.5, 12.5, 16.6, 34.5, 113, 228]), slowMemory: 1.5 },
  promptTokens: 64,
  newTokens: 16,
};

function replayedTable(rate0Ms: readonly number[]): StepTable {
  const prunable = [0.64, 0.69, 0.79, 0.79, 0.85, 0.85];
  return {
    rows: [1, 2, 4, 16, 64, 128],
    stepMs: RATES.map((rate) => rate0Ms.map((ms, i) => ms * (1 - prunable[i]! * rate))),
    decodeContextMs: RATES.map((rate) => 0.003 * (1 - 1.4 * rate)),
    prefillContextMs: RATES.map(() => 0.0004),
  };
}

export const SLOTS = 4;
export const PREFILL_CHUNK = 128;

/** A request of a trace. */
export interface TraceRequest {
  readonly arrivalMs: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly latencyMs: number;
}

export interface TraceOptions {
  readonly seed: number;
  readonly requests: number;
  readonly perSecond: number;
  readonly cv2?: number;
  readonly model?: VirtualModel;
  /** Budgets as multiples of the time alone at rate 0; half of the requests have each. */
  readonly budgets?: readonly [tight: number, loose: number];
}

/**
 * Log-normal lengths, gaps between arrivals by a Gamma distribution, which together take the time that the pace says: a
 * short trace offers exactly the load that was asked for.
 */
export function makeTrace(
  { seed, requests, perSecond, cv2 = 4, model = DECODING, budgets = [1.5, 4] }: TraceOptions,
): TraceRequest[] {
  const draws = new Draws(seed);
  const stepMs = meanStepMs(model.machine);
  const length = (median: number) =>
    Math.max(1, Math.round(median * Math.min(4, Math.max(0.25, Math.exp(0.6 * draws.normal())))));
  const gaps = Array.from({ length: requests + 1 }, () => draws.gamma(1 / cv2));
  const meanGap = gaps.reduce((sum, gap) => sum + gap, 0) / requests;
  let arrivalMs = 0;
  return gaps.slice(0, requests).map((gap) => {
    arrivalMs += gap / meanGap * 1000 / perSecond;
    const [promptTokens, newTokens] = [length(model.promptTokens), length(model.newTokens)];
    const aloneMs = stepMs([{ level: 0, phase: "prefill", rows: promptTokens, context: 0 }]) +
      (newTokens - 1) * stepMs([{ level: 0, phase: "decode", rows: 1, context: promptTokens }]);
    return { arrivalMs, promptTokens, newTokens, latencyMs: budgets[draws.uniform() < 0.5 ? 0 : 1] * aloneMs };
  });
}

/** What came of a trace. */
export interface Outcome {
  /** Answers in time, of all that were offered. */
  readonly attainment: number;
  /** Answers in time, of all answers. */
  readonly admittedMet: number;
  /** Of all answers, each the mean over its tokens. */
  readonly meanRate: number;
  readonly refused: number;
  /** Those of them that were refused as they arrived. */
  readonly refusedAtDoor: number;
  /** Median of the error of predicted total times, as a share of the time. */
  readonly predictionError: number;
  readonly ends: readonly { readonly endMs: number; readonly end: GenerationEnd }[];
}

export interface VirtualOptions {
  readonly policy: string;
  readonly trace: readonly TraceRequest[];
  readonly model?: VirtualModel;
  readonly shed?: boolean;
  readonly onMiss?: GenerationRequest["onMiss"];
  /** Share of the requests that are pinned to the narrowest level; by default none are. */
  readonly pinnedShare?: number;
  /** What requests allow; then answers end by themselves. By default just as many tokens as they have. */
  readonly allowedTokens?: number;
  /** Share of the requests that allow so many; by default all do. */
  readonly allowingShare?: number;
  /** Whether what runs can be narrowed; yes by default. */
  readonly narrows?: boolean;
  /** Of what the machine's steps cost beside the table. */
  readonly seed?: number;
  /** How much slower steps are than the machine makes them, over time; 1 by default. */
  readonly slowness?: (nowMs: number) => number;
  readonly engine?: Partial<EngineOptions>;
}

/** Runs a trace through the engine on a clock that only steps and pauses between requests move. */
export async function runTrace(
  {
    policy,
    trace,
    model: { table, machine: costs } = DECODING,
    shed = true,
    onMiss = "degrade",
    seed = 99,
    slowness = () => 1,
    narrows = true,
    allowedTokens,
    allowingShare = 1,
    pinnedShare = 0,
    engine: options,
  }: VirtualOptions,
): Promise<Outcome & { metrics: Metrics }> {
  const clock = { ms: 0 };
  const machine = new SharedMachine(costs, seed);
  let next = 0;
  let [refused, refusedAtDoor] = [0, 0];
  const open: Promise<void>[] = [];
  const ends: { endMs: number; end: GenerationEnd }[] = [];

  const arrive = () => {
    const { promptTokens, newTokens, latencyMs, arrivalMs } = trace[next++]!;
    clock.ms = Math.max(clock.ms, arrivalMs);
    let tokens = 0;
    // Evenly over the trace.
    const within = (share: number) => Math.floor(next * share) > Math.floor((next - 1) * share);
    const maxNewTokens = within(allowingShare) ? allowedTokens ?? newTokens : newTokens;
    const request = toyRequest({
      promptTokens: Array.from({ length: promptTokens }, () => 1),
      maxNewTokens,
      eosTokenIds: [],
      endsAfter: () => ++tokens === newTokens && newTokens < maxNewTokens,
      pinnedLevel: within(pinnedShare) ? RATES.length - 1 : null,
      floorLevel: RATES.length - 1,
      budget: { latencyMs, ttftMs: null, tpotMs: null },
      onMiss,
      arrivedMs: arrivalMs,
    });
    const onError = (error: unknown) => {
      if (!(error instanceof QueueFullError || error instanceof BudgetError)) throw error;
      refused++;
    };
    try {
      const events = engine.generate(request, new AbortController().signal);
      const onEnd = (end: GenerationEnd) => void ends.push({ endMs: arrivalMs + end.timings.totalMs, end });
      open.push(collect(events).then(({ end }) => onEnd(end as GenerationEnd), onError));
    } catch (error) {
      onError(error);
      refusedAtDoor++;
    }
  };

  const runner = new ToyRunner({
    slots: SLOTS,
    maxTokens: 2048,
    maxRows: PREFILL_CHUNK + SLOTS,
    narrows,
    onStep: (entries) => {
      const parts = entries.map(({ sequence, tokens }) => partOf(sequence, tokens));
      const ms = machine.stepMs(parts, clock.ms) * slowness(clock.ms);
      const endMs = clock.ms + BETWEEN_STEPS_MS + ms;
      while (next < trace.length && trace[next]!.arrivalMs <= endMs) arrive();
      clock.ms = endMs;
    },
  });
  const registry = new Registry();
  const metrics = createMetrics(registry);
  const engine = new Engine({
    runner,
    pruningRates: RATES,
    table,
    policy: createPolicy(policy, { pruningRates: RATES, shed }),
    targets: NO_TARGETS,
    prefillChunk: PREFILL_CHUNK,
    maxWaiting: 64,
    maxWaitingTokens: 1 << 16,
    metrics,
    registry,
    now: () => clock.ms,
    ...options,
  });
  while (next < trace.length) {
    arrive();
    // Whoever arrives while others run is let in by their steps, so after these nothing runs.
    while (open.length > 0) await open.pop();
  }

  const met = ends.filter(({ end }) => end.budgetMet).length;
  const errors = ends.map(({ end: { choice, timings } }) => Math.abs(choice.predictedMs / timings.totalMs - 1));
  return {
    attainment: met / trace.length,
    admittedMet: met / Math.max(1, ends.length),
    meanRate: ends.reduce((sum, { end }) => sum + meanRateOf(end), 0) / Math.max(1, ends.length),
    refused,
    refusedAtDoor,
    predictionError: errors.sort((a, b) => a - b)[errors.length >> 1] ?? 0,
    ends,
    metrics,
  };
}

function meanRateOf({ tokensAtLevel, completionTokens }: GenerationEnd): number {
  return tokensAtLevel.reduce((sum, tokens, level) => sum + tokens * RATES[level]!, 0) / completionTokens;
}

/** What the service does between two steps. */
const BETWEEN_STEPS_MS = 0.6;

function partOf({ level, length }: Sequence, tokens: StepEntry["tokens"]): StepPart {
  return {
    level,
    phase: length === 0 || tokens.length > 1 ? "prefill" : "decode",
    rows: tokens.length,
    context: length,
  };
}

/**
 * What callers get of a service who ask for the next answer when they have one, as `deno task replay` measures what rate
 * 0 sustains: for a step or so after each answer a slot is empty. Measured 4.37 and 4.54 requests a second with what
 * `REPLAYED` is, where a full queue would have got 4.68.
 */
const CALLERS_SHARE = 0.95;

/** Requests a second that the virtual service sustains at rate 0, as many callers as there are slots. */
export async function capacity(model = DECODING): Promise<number> {
  const trace = makeTrace({ seed: 5, requests: 300, perSecond: 1e6, model });
  const { ends } = await runTrace({ policy: "fixed:0", trace, model, engine: { maxWaiting: 1000 } });
  return CALLERS_SHARE * 1000 * trace.length / Math.max(...ends.map(({ endMs }) => endMs));
}
