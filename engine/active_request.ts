import type { Sequence } from "../models/decoder.ts";
import type { Channel } from "./channel.ts";
import type { FinishReason, GenerationEnd, GenerationEvent, GenerationRequest } from "./generation.ts";
import { hasBudget } from "./limits.ts";
import type { RateChoice } from "./rate_choice.ts";
import { Sampler, type SamplerScratch } from "./sampler.ts";
import type { Progress } from "./scheduler.ts";

/** A request that waits for a slot. */
export interface WaitingRequest {
  readonly request: GenerationRequest;
  /** Whether its budget was lost while it waited: it stands behind those whose budgets can be kept. */
  readonly hopeless: boolean;
  readonly events: Channel<GenerationEvent>;
  /** Stops listening to the caller's signal. */
  readonly unlisten: () => void;
}

/** A request that has a slot, from its first step to its last. */
export class ActiveRequest implements Progress, WaitingRequest {
  readonly request: GenerationRequest;
  readonly hopeless: boolean;
  readonly events: Channel<GenerationEvent>;
  readonly unlisten: () => void;
  readonly choice: RateChoice;
  readonly sequence: Sequence;
  readonly startedMs: number;
  readonly #sampler: Sampler;
  prefilled = 0;
  firstTokenMs: number | null = null;
  lastTokenMs: number | null = null;
  tokens = 0;
  readonly tokensAtLevel: number[] = [];
  #lastToken = 0;
  finishReason: FinishReason | null = null;

  constructor(
    { request, hopeless, events, unlisten }: WaitingRequest,
    slot: { choice: RateChoice; sequence: Sequence; nowMs: number },
    scratch: SamplerScratch,
  ) {
    this.request = request;
    this.hopeless = hopeless;
    this.events = events;
    this.unlisten = unlisten;
    this.choice = slot.choice;
    this.sequence = slot.sequence;
    this.startedMs = slot.nowMs;
    this.#sampler = new Sampler(request.sampling, request.promptTokens, scratch);
  }

  get promptLength(): number {
    return this.request.promptTokens.length;
  }

  /** The tokens of its next `rows` rows. */
  nextTokens(rows: number): readonly number[] {
    return this.prefilled < this.promptLength
      ? this.request.promptTokens.slice(this.prefilled, this.prefilled + rows)
      : [this.#lastToken];
  }

  /**
   * Chooses the next token and decides whether it is the last.
   *
   * @param likeliest See `Sampler.sample`.
   * @param stepMs Expected time of one more step.
   */
  take(logits: Float32Array, likeliest: number | null, nowMs: number, stepMs: number): void {
    const { token, logprobs } = this.#sampler.sample(logits, likeliest);
    const { eosTokenIds, maxNewTokens, endsAfter } = this.request;
    const index = this.tokens++;
    const { level } = this.sequence;
    this.tokensAtLevel[level] = (this.tokensAtLevel[level] ?? 0) + 1;
    this.#lastToken = token;
    this.firstTokenMs ??= nowMs;
    this.lastTokenMs = nowMs;
    if (eosTokenIds.includes(token) || endsAfter?.(token)) this.finishReason = "stop";
    else if (this.tokens === maxNewTokens) this.finishReason = "length";
    else if (nowMs + stepMs > deadlineOf(this.request)) this.finishReason = "budget";
    this.events.push({ kind: "token", token, index, level, logprobs, finishReason: this.finishReason });
  }

  /** What it has come to. */
  get course(): Course {
    const { choice, sequence, startedMs, firstTokenMs, lastTokenMs, tokens, tokensAtLevel } = this;
    return { choice, level: sequence.level, startedMs, firstTokenMs, lastTokenMs, tokens, tokensAtLevel };
  }
}

/** When a request's answer is to end: never, unless it asked to be truncated. */
export function deadlineOf({ onMiss, budget, arrivedMs }: GenerationRequest): number {
  return onMiss === "truncate" && budget.latencyMs !== null ? arrivedMs + budget.latencyMs : Infinity;
}

/** The times of a request on the engine's clock, `null` where it did not come to it. */
export interface Course {
  readonly choice: RateChoice;
  readonly level: number;
  readonly startedMs: number;
  readonly firstTokenMs: number | null;
  readonly lastTokenMs: number | null;
  readonly tokens: number;
  readonly tokensAtLevel: readonly (number | undefined)[];
}

/** The event that ends a request. */
export function generationEnd(
  { budget, arrivedMs }: GenerationRequest,
  course: Course,
  finishReason: FinishReason,
  nowMs: number,
): GenerationEnd {
  const { choice, startedMs, tokens } = course;
  const firstMs = course.firstTokenMs ?? nowMs;
  const lastMs = course.lastTokenMs ?? nowMs;
  const decodeMs = lastMs - firstMs;
  const totalMs = lastMs - arrivedMs;
  const met = tokens > 0 &&
    totalMs <= (budget.latencyMs ?? Infinity) &&
    firstMs - arrivedMs <= (budget.ttftMs ?? Infinity) &&
    decodeMs / Math.max(1, tokens - 1) <= (budget.tpotMs ?? Infinity);
  return {
    kind: "end",
    choice,
    level: course.level,
    tokensAtLevel: Array.from(course.tokensAtLevel, (tokens) => tokens ?? 0),
    finishReason,
    completionTokens: tokens,
    timings: { queueMs: startedMs - arrivedMs, prefillMs: firstMs - startedMs, decodeMs, totalMs },
    budgetMet: hasBudget({ budget }) ? met : null,
  };
}
