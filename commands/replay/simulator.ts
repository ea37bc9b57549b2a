import type { StepClock } from "./measured_costs.ts";

/** A request as the simulator sees it. */
export interface SimulatedRequest {
  readonly arrivalMs: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** When its last token is due. */
  readonly deadlineMs: number;
}

/** The level that a request runs at, or that it is refused. */
export type Decision = number;

/** A request that gets no slot. */
export const REFUSED: Decision = -1;

/** What is decided about a trace. */
export interface Decisions {
  /** The level that each request starts at. */
  readonly levels: readonly Decision[];
  /**
   * The level that wider running requests are narrowed to when each request arrives; 0 leaves them as they are. Without
   * it nothing is narrowed.
   */
  readonly narrowings?: readonly number[];
}

/** What comes of decisions. */
export interface Simulated {
  /** When each request had its last token, in milliseconds; NaN where it was refused. */
  readonly finishedMs: Float64Array;
  /** Tokens of each request at each level, `[request * levels + level]`. */
  readonly tokensAtLevel: Int32Array;
}

/**
 * Runs the service's engine on paper: slots, prefill chunks shared by prompts, one token a step for those that decode,
 * the queue by deadline. Everything is known beforehand, the rates and refusals are given.
 *
 * @param requests By arrival.
 * @throws {RangeError} If a step has no time: then nothing would ever end.
 */
export function simulate(
  clock: StepClock,
  requests: readonly SimulatedRequest[],
  { levels: decisions, narrowings }: Decisions,
): Simulated {
  const finished = new Float64Array(requests.length).fill(NaN);
  const tokensAtLevel = new Int32Array(requests.length * clock.levels);
  const levels = Int32Array.from(decisions);
  const prefilled = new Int32Array(requests.length);
  const tokens = new Int32Array(requests.length);
  const decode = new Int32Array(clock.levels);
  const prefill = new Int32Array(clock.levels);
  const waiting: number[] = [];
  let running: number[] = [];
  let [now, next] = [0, 0];
  while (true) {
    if (running.length + waiting.length === 0) {
      while (next < requests.length && decisions[next] === REFUSED) next++;
      if (next === requests.length) return { finishedMs: finished, tokensAtLevel };
      now = Math.max(now, requests[next]!.arrivalMs);
    }
    for (; next < requests.length && requests[next]!.arrivalMs <= now; next++) {
      if (decisions[next] !== REFUSED) waiting.push(next);
      const narrowed = narrowings?.[next] ?? 0;
      for (const index of running) if (levels[index]! < narrowed) levels[index] = narrowed;
    }
    while (running.length < clock.slots && waiting.length > 0) running.push(takeEarliest(waiting, requests));

    decode.fill(0);
    prefill.fill(0);
    let room = clock.chunk;
    let fewest = Infinity;
    for (const index of running) {
      const level = levels[index]!;
      const { promptTokens, newTokens } = requests[index]!;
      const missing = promptTokens - prefilled[index]!;
      if (missing === 0) {
        decode[level]!++;
        tokens[index]!++;
        tokensAtLevel[index * clock.levels + level]!++;
        fewest = Math.min(fewest, newTokens - tokens[index]! + 1);
      } else if (room > 0) {
        const rows = Math.min(missing, room);
        prefill[level]! += rows;
        prefilled[index]! += rows;
        room -= rows;
        if (rows === missing) {
          tokens[index] = 1;
          tokensAtLevel[index * clock.levels + level]!++;
        }
      }
    }
    const ms = clock.stepMs(decode, prefill);
    if (!(ms > 0)) throw new RangeError(`Cannot simulate a step of ${ms} ms`);
    let steps = 1;
    if (room === clock.chunk) {
      // Only decoding, by the same sequences: many alike steps in one, until one of them ends or another comes.
      steps = fewest;
      const looks = running.length < clock.slots || narrowings !== undefined;
      if (looks && next < requests.length) {
        steps = Math.min(steps, Math.max(1, Math.ceil((requests[next]!.arrivalMs - now) / ms)));
      }
      for (const index of running) {
        tokens[index]! += steps - 1;
        tokensAtLevel[index * clock.levels + levels[index]!]! += steps - 1;
      }
    }
    now += steps * ms;
    let ended = false;
    for (const index of running) {
      if (tokens[index] !== requests[index]!.newTokens) continue;
      finished[index] = now;
      ended = true;
    }
    if (ended) running = running.filter((index) => Number.isNaN(finished[index]));
  }
}

function takeEarliest(waiting: number[], requests: readonly SimulatedRequest[]): number {
  let first = 0;
  for (let i = 1; i < waiting.length; i++) {
    if (requests[waiting[i]!]!.deadlineMs < requests[waiting[first]!]!.deadlineMs) first = i;
  }
  return waiting.splice(first, 1)[0]!;
}

/** What decisions come to. */
export interface SimulatedResult {
  readonly offered: number;
  /** Not refused. */
  readonly served: number;
  /** Share of all requests whose last token was in time. */
  readonly attainment: number;
  /** Of those that were not refused, each the mean over its tokens; 0 if all were. */
  readonly meanRate: number;
  readonly missed: readonly number[];
}

/** Runs decisions and counts. */
export function judge(
  clock: StepClock,
  pruningRates: readonly number[],
  requests: readonly SimulatedRequest[],
  decisions: Decisions,
): SimulatedResult {
  const { finishedMs, tokensAtLevel } = simulate(clock, requests, decisions);
  const missed: number[] = [];
  let [met, served, rates] = [0, 0, 0];
  for (const [index, { deadlineMs, newTokens }] of requests.entries()) {
    if (decisions.levels[index] === REFUSED) continue;
    served++;
    const tokens = tokensAtLevel.subarray(index * clock.levels, (index + 1) * clock.levels);
    rates += tokens.reduce((sum, count, level) => sum + count * pruningRates[level]!, 0) / newTokens;
    if (finishedMs[index]! <= deadlineMs) met++;
    else missed.push(index);
  }
  return {
    offered: requests.length,
    served,
    attainment: requests.length === 0 ? 0 : met / requests.length,
    meanRate: served === 0 ? 0 : rates / served,
    missed,
  };
}

/** What several traces come to together. */
export function pooled(results: readonly SimulatedResult[]): Pick<SimulatedResult, "attainment" | "meanRate"> {
  const sum = (of: (result: SimulatedResult) => number) => results.reduce((total, result) => total + of(result), 0);
  const [offered, served] = [sum((result) => result.offered), sum((result) => result.served)];
  return {
    attainment: offered === 0 ? 0 : sum((result) => result.attainment * result.offered) / offered,
    meanRate: served === 0 ? 0 : sum((result) => result.meanRate * result.served) / served,
  };
}
