import { type Limits, NO_LIMITS } from "./limits.ts";
import type { LoadSnapshot } from "./load.ts";
import { type HoldOptions, holdsPrompts, stepsOfPrompt } from "./prompt_hold.ts";
import type { RunningWork, WaitingWork } from "./request_work.ts";
import { type Finish, forecastSchedule, type Work } from "./schedule_forecast.ts";
import { scheduleStep } from "./scheduler.ts";
import { kindOf, type StepCosts, type StepKind, type StepPart } from "./step_costs.ts";

/** What would come of running a request at a level. */
export interface Forecast {
  /** Of the request, as expected. */
  readonly finish: Finish;
  /** Whether it is expected to keep its limits, with the margin. */
  readonly meets: boolean;
  /** Others, running and waiting, that would break their limits. */
  readonly othersMissed: number;
}

/** The levels of all others in a forecast, as far as each may have them. */
export interface OthersLevels {
  /** Of those who wait. */
  readonly waiting: number;
  /** What those who run are narrowed to now; 0 leaves them as they are. */
  readonly running: number;
}

export interface SituationOptions {
  readonly costs: StepCosts;
  readonly load: LoadSnapshot;
  readonly prefillChunk: number;
  readonly running: readonly RunningWork[];
  /** In the order in which they get slots. */
  readonly waiting: readonly WaitingWork[];
  /** Milliseconds until the present step ends. */
  readonly busyMs: number;
  /** Whether prompts are held back while they would cost an answer its budget. */
  readonly holdsPrompts: boolean;
}

/** Requests, per slot, whose time tells what the machine sustains. */
const SUSTAINED = 4;

/** Beyond this share the sensor of other work says little about what is left. */
const MOST_CONTENTION = 0.8;

/**
 * Predicts what becomes of the requests that there are, under the load of one instant.
 *
 * Requests that have not arrived are left out. Two ways to count them in were tried (40 and 16 traces of `REPLAYED` in
 * virtual time). Adding the next ones at the gaps that arrivals had lately, bursts included, made predictions at half of
 * what rate 0 sustains worse (11.8 % off in the median instead of 9.3 %): two of five answers get no company, and theirs
 * are the ones that can be right. Using them only to choose levels, in place of the default policy's room, gave the
 * same trade-off between budgets kept and pruning, for three times the work.
 */
export class Situation {
  readonly options: SituationOptions;
  readonly #stepMs: (parts: readonly StepPart[]) => number;

  constructor(options: SituationOptions) {
    this.options = options;
    this.#stepMs = stepTimes(options.costs, options.load);
  }

  get levels(): number {
    return this.options.costs.levels;
  }

  /**
   * How many would break their limits with everyone at a level, as far as each may have it; those who run never widen.
   *
   * @param margin Factor on what is likely.
   */
  missed({ waiting, running }: OthersLevels, margin = 1): number {
    const options = this.options;
    const works = { running: narrowed(options.running, running), waiting: atLevel(options.waiting, waiting) };
    const finishes = this.forecast(works.running, works.waiting);
    const factor = options.load.predictionError.median * margin;
    return countMissed(works.running, finishes.running, factor) + countMissed(works.waiting, finishes.waiting, factor);
  }

  /**
   * The pace at which requests come, as a share of what all slots sustain at a level; 0 if none came.
   *
   * @param perSecond Requests like those of late; as many as came lately, if it is not given.
   */
  utilizationAt(level: number, perSecond = this.options.load.arrivals.perSecond): number {
    const { arrivals, slots } = this.options.load;
    if (perSecond === 0) return 0;
    const count = SUSTAINED * slots;
    const { lastTokenMs } = this.together(meanWork(arrivals, level), { count, slots });
    return perSecond * lastTokenMs / 1000 / count;
  }

  /** When the work that there is will be done. */
  remainingMs(): number {
    const { running, waiting, load } = this.options;
    const finishes = this.forecast(running, atLevel(waiting, this.levels - 1));
    return load.predictionError.median *
      [...finishes.running, ...finishes.waiting].reduce((last, { lastTokenMs }) => Math.max(last, lastTokenMs), 0);
  }

  /** Whether the next step is to leave the prompts out that there are. */
  promptsHeld(): boolean {
    const { running, prefillChunk, busyMs } = this.options;
    const hold = this.#hold;
    if (hold === null) return false;
    const inOrder = running.toSorted((a, b) => a.instantMs - b.instantMs)
      .map((work) => ({ ...work, promptLength: work.promptTokens, prefilled: 0 }));
    const step = scheduleStep(inOrder, prefillChunk)
      .map(({ sequence, phase, rows }) => ({ ...sequence, phase, rows }));
    const decoding = step.filter(({ phase }) => phase === "decode");
    const prompts = step.filter(({ phase }) => phase === "prefill");
    if (decoding.length === 0 || prompts.length === 0) return false;
    const awaited = ({ newTokens, limits, promptTokens, rows }: RunningWork & { readonly rows: number }) => ({
      newTokens,
      leftMs: limits.lastTokenMs - busyMs,
      firstLeftMs: limits.firstTokenMs - busyMs,
      steps: stepsOfPrompt({ promptTokens, rows, prefillChunk }),
    });
    return holdsPrompts({
      ...{ decoding: decoding.map(awaited), prompts: prompts.map(awaited) },
      ...{ mixedMs: this.#stepMs(step), decodeMs: this.#stepMs(decoding), ...hold },
    });
  }

  get #hold(): Pick<HoldOptions, "safe" | "likely"> | null {
    const { holdsPrompts, load: { predictionError: { median, safe } } } = this.options;
    return holdsPrompts ? { likely: median, safe } : null;
  }

  protected forecast(running: readonly Work[], waiting: readonly Work[]): ReturnType<typeof forecastSchedule> {
    const { load: { slots }, prefillChunk, busyMs } = this.options;
    return forecastSchedule({ running, waiting, slots, prefillChunk, busyMs, stepMs: this.#stepMs, hold: this.#hold });
  }

  /** So many of one kind of work that come together to an idle machine. @returns The last one's times. */
  protected together(work: Work, { count, slots }: { count: number; slots: number }): Finish {
    const { waiting } = forecastSchedule({
      running: [],
      waiting: Array.from({ length: count }, () => work),
      slots,
      prefillChunk: this.options.prefillChunk,
      busyMs: 0,
      stepMs: this.#stepMs,
      hold: null,
    });
    return waiting.reduce((last, finish) => finish.lastTokenMs > last.lastTokenMs ? finish : last);
  }
}

/** Predicts what becomes of one request, and of the others with it. */
export class Predictor extends Situation {
  readonly #request: WaitingWork;
  /** Its place among those who wait. */
  readonly #place: number;

  constructor({ request, place, ...options }: SituationOptions & { request: WaitingWork; place: number }) {
    super(options);
    this.#request = request;
    this.#place = place;
  }

  /** The request at a level, beside the others. @param margin As in `missed()`. */
  underLoad(level: number, others: OthersLevels, margin = 1): Forecast {
    const { load, ...options } = this.options;
    const running = narrowed(options.running, others.running);
    const waiting = atLevel(options.waiting, others.waiting)
      .toSpliced(this.#place, 0, { ...this.#request, level, context: 0 });
    const finishes = this.forecast(running, waiting);
    const factor = load.predictionError.median * margin;
    const own = finishes.waiting[this.#place]!;
    const meets = keeps(own, this.#request.limits, factor);
    return {
      finish: scaled(own, load.predictionError.median),
      meets,
      othersMissed: countMissed(running, finishes.running, factor) +
        countMissed(waiting, finishes.waiting, factor) - (meets ? 0 : 1),
    };
  }

  /** Whether the request alone, from now on, would keep its limits. */
  keepsAlone(level: number): boolean {
    return keeps(this.#alone(level), this.#request.limits, 1);
  }

  /** Whether it would have kept them on a machine that was idle when it arrived: if not, load is not to blame. */
  keepsOnIdle(level: number): boolean {
    const { limits, waitedMs } = this.#request;
    const fromArrival = {
      ...limits,
      firstTokenMs: limits.firstTokenMs + waitedMs,
      lastTokenMs: limits.lastTokenMs + waitedMs,
    };
    return keeps(this.#alone(level), fromArrival, 1);
  }

  #alone(level: number): Finish {
    return this.together({ ...this.#request, level, context: 0 }, { count: 1, slots: 1 });
  }

  /** Time of a step that decodes the request alone, right after its prompt. */
  decodeStepMs(level: number): number {
    const { costs, load } = this.options;
    const part = { level, phase: "decode", rows: 1, context: this.#request.promptTokens } as const;
    return load.predictionError.median * stepTimes(costs, load)([part]);
  }

  /** Time of so many requests like this one that start together, at one level, until all are done. */
  togetherMs(count: number, level: number): number {
    return this.together({ ...this.#request, level, context: 0 }, { count, slots: count }).lastTokenMs;
  }

  /** Time that the most urgent of those who wait has left; infinite if nobody's time is limited. */
  get mostUrgentMs(): number {
    return Math.min(...[...this.options.waiting, this.#request].map(({ limits }) => limits.lastTokenMs));
  }
}

/**
 * From the end of one step to the end of the next, as it is now: the table's time, times what was measured lately, times
 * what others take, and what the service does between two steps.
 */
export function stepTimes(costs: StepCosts, load: LoadSnapshot): (parts: readonly StepPart[]) => number {
  const slowdown = contentionSlowdown(load.contention);
  // Forecasts ask for thousands of steps of a few kinds.
  const ratios: Record<StepKind["phase"], number[]> = { prefill: [], decode: [] };
  return (parts) => {
    const kind = kindOf(parts);
    const ratio = ratios[kind.phase][kind.sequences] ??= load.stepRatio(kind);
    return load.betweenStepsMs + costs.stepMs(parts) * ratio * slowdown;
  };
}

/** How much slower steps get when others take a share of the machine, 1 or more. */
export function contentionSlowdown(share: number): number {
  return 1 / (1 - Math.min(Math.max(share, 0), MOST_CONTENTION));
}

/** Work of the mean kind. */
function meanWork({ promptTokens, newTokens }: LoadSnapshot["arrivals"], level: number): Work {
  const whole = (tokens: number) => Math.max(1, Math.round(tokens));
  const work = { level, context: 0, instantMs: 0, limits: NO_LIMITS };
  return { ...work, promptTokens: whole(promptTokens), newTokens: whole(newTokens) };
}

function atLevel(waiting: readonly WaitingWork[], level: number): (WaitingWork & Work)[] {
  return waiting.map((work) => ({
    ...work,
    level: Math.max(work.widestLevel, Math.min(level, work.narrowestLevel)),
    context: 0,
  }));
}

function narrowed(running: readonly RunningWork[], level: number): readonly RunningWork[] {
  return level === 0 ? running : running.map((work) => ({
    ...work,
    level: Math.max(work.level, Math.min(level, work.narrowestLevel)),
  }));
}

function countMissed(
  works: readonly { readonly limits: Limits }[],
  finishes: readonly Finish[],
  factor: number,
): number {
  return works.reduce((count, { limits }, i) => count + (keeps(finishes[i]!, limits, factor) ? 0 : 1), 0);
}

function keeps({ firstTokenMs, lastTokenMs }: Finish, limits: Limits, factor: number): boolean {
  return firstTokenMs * factor <= limits.firstTokenMs && lastTokenMs * factor <= limits.lastTokenMs &&
    (lastTokenMs - firstTokenMs) * factor <= limits.decodeMs;
}

function scaled({ startMs, firstTokenMs, lastTokenMs }: Finish, factor: number): Finish {
  return { startMs: startMs * factor, firstTokenMs: firstTokenMs * factor, lastTokenMs: lastTokenMs * factor };
}
