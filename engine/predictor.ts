import type { LoadSnapshot } from "./load.ts";
import { type Arrival, type Finish, forecastSchedule, type Work } from "./schedule_forecast.ts";
import { phaseOf, type StepCosts, type StepPart, widestLevel } from "./step_costs.ts";

/** Times from now by which something is to happen, in milliseconds; infinite where nothing is asked. */
export interface Limits {
  readonly firstTokenMs: number;
  readonly lastTokenMs: number;
  /** First to last token. */
  readonly decodeMs: number;
}

export const NO_LIMITS: Limits = { firstTokenMs: Infinity, lastTokenMs: Infinity, decodeMs: Infinity };

/** A request that runs. */
export interface RunningWork extends Work {
  readonly limits: Limits;
}

/** A request without a slot: its level is open. */
export interface WaitingWork extends Omit<Work, "level" | "context"> {
  readonly limits: Limits;
  /** Time since its arrival. */
  readonly waitedMs: number;
  /** The narrowest level that it may get, or the only one. */
  readonly narrowestLevel: number;
  /** The widest level that it may get, or the only one. */
  readonly widestLevel: number;
}

/** What would come of running a request at a level. */
export interface Forecast {
  /** Of the request, as expected. */
  readonly finish: Finish;
  /** Whether it keeps its limits with safety. */
  readonly meets: boolean;
  /** Others, running and waiting, that would break their limits. */
  readonly othersMissed: number;
}

export interface PredictorOptions {
  readonly costs: StepCosts;
  readonly load: LoadSnapshot;
  readonly prefillChunk: number;
  /** In the order of admission. */
  readonly running: readonly RunningWork[];
  /** Those who get slots before the request that is asked about. */
  readonly before: readonly WaitingWork[];
  readonly request: WaitingWork;
  /** Those who get slots after it. */
  readonly after: readonly WaitingWork[];
  /** Milliseconds until the present step ends. */
  readonly busyMs: number;
}

/** Requests that have not come yet and are counted on: those further ahead hardly touch what runs now. */
const EXPECTED = 6;

/** Requests, per slot, whose time tells what the machine sustains. */
const SUSTAINED = 4;

/** Beyond this share the sensor of other work says little about what is left. */
const MOST_CONTENTION = 0.8;

/** Predicts what becomes of one request, and of the others with it, under the load of one instant. */
export class Predictor {
  readonly #options: PredictorOptions;
  readonly #stepMs: (parts: readonly StepPart[]) => number;

  constructor(options: PredictorOptions) {
    this.#options = options;
    this.#stepMs = stepTimes(options.costs, options.load);
  }

  get levels(): number {
    return this.#options.costs.levels;
  }

  /**
   * The request at a level, beside the others. Those who wait take the narrowest of `othersLevel` and what they may.
   *
   * @param margin Factor on predicted times beside the safety that is learned.
   */
  underLoad(level: number, { othersLevel, margin = 1 }: { othersLevel: number; margin?: number }): Forecast {
    const { running, before, request, after } = this.#options;
    const others = (work: WaitingWork) => atLevel(work, othersLevel);
    const waiting = [...before.map(others), { ...request, level, context: 0 }, ...after.map(others)];
    const finishes = this.#forecast(running, waiting, level);
    const safety = this.#options.load.predictionError.high * margin;
    const missed = (works: readonly { limits: Limits }[], from: readonly Finish[]) =>
      works.reduce((count, { limits }, i) => count + (keeps(from[i]!, limits, safety) ? 0 : 1), 0);
    const own = finishes.waiting[before.length]!;
    const meets = keeps(own, request.limits, safety);
    const missedWaiting = missed(waiting, finishes.waiting) - (meets ? 0 : 1);
    const { median } = this.#options.load.predictionError;
    return {
      finish: scaled(own, median),
      meets,
      othersMissed: missed(running, finishes.running) + missedWaiting,
    };
  }

  /** How many others would break their limits if the request were not there. */
  missedWithout(othersLevel: number): number {
    const { running, before, after, load } = this.#options;
    const waiting = [...before, ...after].map((work) => atLevel(work, othersLevel));
    const finishes = this.#forecast(running, waiting, othersLevel);
    const missed = (works: readonly { limits: Limits }[], from: readonly Finish[]) =>
      works.filter(({ limits }, i) => !keeps(from[i]!, limits, load.predictionError.high)).length;
    return missed(running, finishes.running) + missed(waiting, finishes.waiting);
  }

  /** Whether the request alone, from now on, would keep its limits. */
  keepsAlone(level: number): boolean {
    return keeps(this.#alone(level), this.#options.request.limits, 1);
  }

  /** Whether it would have kept them on a machine that was idle when it arrived: if not, load is not to blame. */
  keepsOnIdle(level: number): boolean {
    const { limits, waitedMs } = this.#options.request;
    const fromArrival = {
      ...limits,
      firstTokenMs: limits.firstTokenMs + waitedMs,
      lastTokenMs: limits.lastTokenMs + waitedMs,
    };
    return keeps(this.#alone(level), fromArrival, 1);
  }

  #alone(level: number): Finish {
    const { request, prefillChunk } = this.#options;
    return forecastSchedule({
      running: [],
      waiting: [{ ...request, level, context: 0 }],
      expected: [],
      slots: 1,
      prefillChunk,
      busyMs: 0,
      stepMs: this.#stepMs,
    }).waiting[0]!;
  }

  /** Time of so many requests like this one that start together, at one level, until all are done. */
  together(count: number, level: number): number {
    const { request, prefillChunk } = this.#options;
    const { waiting } = forecastSchedule({
      running: [],
      waiting: Array.from({ length: count }, () => ({ ...request, level, context: 0 })),
      expected: [],
      slots: count,
      prefillChunk,
      busyMs: 0,
      stepMs: this.#stepMs,
    });
    return Math.max(...waiting.map(({ lastTokenMs }) => lastTokenMs));
  }

  /** The pace at which requests come, as a share of what all slots sustain at a level; 0 if none came lately. */
  utilization(level: number): number {
    const { load: { arrivals, slots }, prefillChunk } = this.#options;
    if (arrivals.perSecond === 0) return 0;
    const count = SUSTAINED * slots;
    const { waiting } = forecastSchedule({
      running: [],
      waiting: Array.from({ length: count }, () => meanWork(arrivals, level)),
      expected: [],
      slots,
      prefillChunk,
      busyMs: 0,
      stepMs: this.#stepMs,
    });
    return arrivals.perSecond * Math.max(...waiting.map(({ lastTokenMs }) => lastTokenMs)) / 1000 / count;
  }

  /** Time that the most urgent of those who wait has left; infinite if nobody's time is limited. */
  get mostUrgentMs(): number {
    const { before, request, after } = this.#options;
    return Math.min(...[...before, request, ...after].map(({ limits }) => limits.lastTokenMs));
  }

  /** When the work that there is will be done, without the request. */
  remainingMs(): number {
    const { running, before, after, load } = this.#options;
    const waiting = [...before, ...after].map((work) => atLevel(work, this.levels - 1));
    const { running: ends, waiting: later } = this.#forecast(running, waiting, this.levels - 1);
    return load.predictionError.median *
      [...ends, ...later].reduce((last, { lastTokenMs }) => Math.max(last, lastTokenMs), 0);
  }

  #forecast(running: readonly Work[], waiting: readonly Work[], expectedLevel: number): ReturnType<
    typeof forecastSchedule
  > {
    const { load, prefillChunk, busyMs } = this.#options;
    return forecastSchedule({
      running,
      waiting,
      expected: expectedArrivals(load, expectedLevel),
      slots: load.slots,
      prefillChunk,
      busyMs,
      stepMs: this.#stepMs,
    });
  }
}

/** Step times as they are now: the table's, times what was measured lately, times what others take. */
export function stepTimes(costs: StepCosts, load: LoadSnapshot): (parts: readonly StepPart[]) => number {
  const slowdown = contentionSlowdown(load.contention);
  return (parts) => costs.stepMs(parts) * load.stepRatio(phaseOf(parts), widestLevel(parts)) * slowdown;
}

/** How much slower steps get when others take a share of the machine, 1 or more. */
export function contentionSlowdown(share: number): number {
  return 1 / (1 - Math.min(Math.max(share, 0), MOST_CONTENTION));
}

/** Requests of the mean kind, evenly spaced, at the pace at which requests came lately. */
function expectedArrivals({ arrivals }: LoadSnapshot, level: number): Arrival[] {
  return Array.from({ length: arrivals.perSecond > 0 ? EXPECTED : 0 }, (_, i) => ({
    ...meanWork(arrivals, level),
    inMs: (i + 1) * 1000 / arrivals.perSecond,
  }));
}

function meanWork({ promptTokens, newTokens }: LoadSnapshot["arrivals"], level: number): Work {
  const whole = (tokens: number) => Math.max(1, Math.round(tokens));
  return { level, context: 0, promptTokens: whole(promptTokens), newTokens: whole(newTokens) };
}

function atLevel(work: WaitingWork, level: number): WaitingWork & Work {
  return { ...work, level: Math.max(work.widestLevel, Math.min(level, work.narrowestLevel)), context: 0 };
}

function keeps({ firstTokenMs, lastTokenMs }: Finish, limits: Limits, safety: number): boolean {
  return firstTokenMs * safety <= limits.firstTokenMs && lastTokenMs * safety <= limits.lastTokenMs &&
    (lastTokenMs - firstTokenMs) * safety <= limits.decodeMs;
}

function scaled({ startMs, firstTokenMs, lastTokenMs }: Finish, factor: number): Finish {
  return { startMs: startMs * factor, firstTokenMs: firstTokenMs * factor, lastTokenMs: lastTokenMs * factor };
}
