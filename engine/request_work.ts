import type { ActiveRequest, WaitingRequest } from "./active_request.ts";
import type { AnswerLengths } from "./answer_lengths.ts";
import type { GenerationRequest } from "./generation.ts";
import { type Limits, limitsOf, NO_LIMITS, type Targets } from "./limits.ts";
import type { Work } from "./schedule_forecast.ts";

/** A request that runs. */
export interface RunningWork extends Work {
  readonly limits: Limits;
  /** The narrowest level that it may be narrowed to. */
  readonly narrowestLevel: number;
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

/** What is known of the time and of answers in general. */
export interface Expectations {
  readonly targets: Targets;
  readonly nowMs: number;
  /** Whether what runs can be narrowed. */
  readonly narrows: boolean;
  /**
   * How long answers get: an answer is counted on to be as long as the mean. With what nine of ten stay within,
   * everything seemed to take so much longer that twice as much was pruned, and still fewer budgets were kept (requests
   * for 128 tokens, of which answers took 16 in the median, at half of what rate 0 sustains; `REPLAYED` in virtual time).
   */
  readonly answerLengths: Pick<AnswerLengths, "remaining">;
}

/**
 * What a waiting request needs. A budget that is lost limits nothing any more: nobody is refused, and nothing narrowed,
 * for its sake.
 *
 * @param instantMs Its place in the order of urgency.
 */
export function waitingWork(
  { request, hopeless }: Pick<WaitingRequest, "request" | "hopeless">,
  instantMs: number,
  { targets, nowMs, answerLengths }: Expectations,
): WaitingWork {
  const newTokens = remainingTokens(0, request, answerLengths);
  return {
    promptTokens: request.promptTokens.length,
    newTokens,
    limits: hopeless ? NO_LIMITS : limitsOf(request, { targets, newTokens, nowMs, firstTokenMs: null }),
    waitedMs: nowMs - request.arrivedMs,
    widestLevel: request.pinnedLevel ?? 0,
    narrowestLevel: request.pinnedLevel ?? request.floorLevel,
    instantMs,
  };
}

/**
 * What a running request needs after the present step; null if it needs no more.
 *
 * @param rows Its rows in the present step.
 */
export function runningWork(
  { request, hopeless, sequence, firstTokenMs, promptLength, prefilled, tokens }: ActiveRequest,
  { rows, instantMs }: { rows: number; instantMs: number },
  { targets, nowMs, narrows, answerLengths }: Expectations,
): RunningWork | null {
  const promptTokens = Math.max(0, promptLength - prefilled - rows);
  const expected = tokens + remainingTokens(tokens, request, answerLengths);
  const newTokens = expected - tokens - (rows > 0 && promptTokens === 0 ? 1 : 0);
  if (newTokens <= 0) return null;
  return {
    level: sequence.level,
    narrowestLevel: narrows ? request.pinnedLevel ?? request.floorLevel : sequence.level,
    promptTokens,
    context: sequence.length + rows,
    newTokens,
    instantMs,
    limits: hopeless ? NO_LIMITS : limitsOf(request, { targets, newTokens: expected, nowMs, firstTokenMs }),
  };
}

/** What is expected to follow the tokens of an answer that it has. */
function remainingTokens(
  tokens: number,
  { maxNewTokens }: GenerationRequest,
  lengths: Expectations["answerLengths"],
): number {
  return Math.round(lengths.remaining(tokens, maxNewTokens));
}
