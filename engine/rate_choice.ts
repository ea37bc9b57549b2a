/** What a request asks for, in milliseconds; `null` where it asks for nothing. */
export interface Budget {
  /** Arrival to last token. */
  readonly latencyMs: number | null;
  /** Arrival to first token. */
  readonly ttftMs: number | null;
  /** Mean time between tokens. */
  readonly tpotMs: number | null;
}

/**
 * Why a request runs at its rate. `idle`: the full model, nothing asked for less. `budget`: its budget needs a narrower
 * model even on a machine without other work. `load`: the requests beside it need one. `pinned`: it was asked for, by
 * the caller or by the policy. `floor`: its floor stopped a narrower one.
 */
export type RateReason = typeof RATE_REASONS[number];

export const RATE_REASONS = ["idle", "budget", "load", "pinned", "floor"] as const;

export interface RateChoice {
  readonly level: number;
  readonly reason: RateReason;
  /** From arrival to the last token, with the other requests that there are. */
  readonly predictedMs: number;
  readonly predictedMsAtRate0: number;
  /** From arrival to the first token. */
  readonly predictedTtftMs: number;
  /** Between two tokens, on average. */
  readonly predictedTpotMs: number;
  /** Whether the budget is expected to be met. True without one. */
  readonly fits: boolean;
}
