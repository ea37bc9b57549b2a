import type { GenerationRequest } from "./generation.ts";

/** What the service aims at for requests without a budget, in milliseconds; `null` where it aims at nothing. */
export interface Targets {
  readonly ttftMs: number | null;
  readonly tpotMs: number | null;
}

export const NO_TARGETS: Targets = { ttftMs: null, tpotMs: null };

/** Times from now by which something is to happen, in milliseconds; infinite where nothing is asked. */
export interface Limits {
  readonly firstTokenMs: number;
  readonly lastTokenMs: number;
  /** First to last token. */
  readonly decodeMs: number;
}

export const NO_LIMITS: Limits = { firstTokenMs: Infinity, lastTokenMs: Infinity, decodeMs: Infinity };

/** Whether the caller set any limit; the service's targets count only where none is set. */
export function hasBudget({ budget }: Pick<GenerationRequest, "budget">): boolean {
  return budget.latencyMs !== null || budget.ttftMs !== null || budget.tpotMs !== null;
}

/** A request's limits from now, by its budget or else by the targets. @param newTokens Expected of its answer. */
export function limitsOf(
  { budget, arrivedMs }: Pick<GenerationRequest, "budget" | "arrivedMs">,
  { targets, newTokens, nowMs, firstTokenMs }: {
    targets: Targets;
    newTokens: number;
    nowMs: number;
    /** When its first token came. */
    firstTokenMs: number | null;
  },
): Limits {
  const { latencyMs, ttftMs, tpotMs } = hasBudget({ budget }) ? budget : { latencyMs: null, ...targets };
  const left = arrivedMs - nowMs;
  const lastTokenMs = latencyMs === null ? Infinity : left + latencyMs;
  const decodeMs = tpotMs === null ? Infinity : tpotMs * Math.max(1, newTokens - 1);
  if (firstTokenMs === null) {
    return { firstTokenMs: ttftMs === null ? Infinity : left + ttftMs, lastTokenMs, decodeMs };
  }
  // The first token is history; what is left of its decoding is a limit for the last.
  return { ...NO_LIMITS, lastTokenMs: Math.min(lastTokenMs, firstTokenMs - nowMs + decodeMs) };
}
