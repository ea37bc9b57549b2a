import type { Budget, RateChoice } from "./rate_choice.ts";
import type { Logprobs, SamplingOptions } from "./sampler.ts";

/** One request to continue a prompt, in token ids. */
export interface GenerationRequest {
  /** One token at least. */
  readonly promptTokens: readonly number[];
  /** 1 or more; with the prompt no more than the engine's `maxTokens`. */
  readonly maxNewTokens: number;
  /** Tokens that end the answer. They belong to it. */
  readonly eosTokenIds: readonly number[];
  readonly sampling: SamplingOptions;
  readonly pinnedLevel: number | null;
  /** The narrowest level allowed. */
  readonly floorLevel: number;
  readonly budget: Budget;
  /** What to do when no allowed rate fits: run at the largest, run until the latency budget ends, or refuse. */
  readonly onMiss: "degrade" | "truncate" | "reject";
  /** When the request arrived, on the engine's clock. */
  readonly arrivedMs: number;
  /** Asked about every token but those that end the answer by themselves; true ends the answer after it. */
  readonly endsAfter?: (token: number) => boolean;
}

/** `stop`: a token or `endsAfter` ended it. `length`: `maxNewTokens`. `budget`: the latency budget, by `truncate`. */
export type FinishReason = "stop" | "length" | "budget";

/** Phases of a request in milliseconds; 0 for those that it did not come to. */
export interface Timings {
  /** Arrival to slot. */
  readonly queueMs: number;
  /** Slot to first token. */
  readonly prefillMs: number;
  /** First to last token. */
  readonly decodeMs: number;
  /** Arrival to end. */
  readonly totalMs: number;
}

/** What comes of a request: one start, tokens, one end. */
export type GenerationEvent = GenerationStart | GeneratedToken | GenerationEnd;

/** The request has a slot, and its rate is settled. */
export interface GenerationStart {
  readonly kind: "start";
  readonly choice: RateChoice;
}

export interface GeneratedToken {
  readonly kind: "token";
  readonly token: number;
  /** 0 for the first. */
  readonly index: number;
  /** The level that it was computed at. */
  readonly level: number;
  readonly logprobs: Logprobs | null;
  /** Set on the last token. */
  readonly finishReason: FinishReason | null;
}

export interface GenerationEnd {
  readonly kind: "end";
  readonly choice: RateChoice;
  /** The narrowest level that it came to: the chosen one, unless it was narrowed while it ran. */
  readonly level: number;
  /** Tokens of the answer that were computed at each level, the full one first. */
  readonly tokensAtLevel: readonly number[];
  readonly finishReason: FinishReason;
  readonly completionTokens: number;
  readonly timings: Timings;
  /** Whether every part of the budget was kept; `null` without one. */
  readonly budgetMet: boolean | null;
}
