import { type LevelTable, prefillMs, requestMs } from "./level_table.ts";

/** What a request asks for, in milliseconds; `null` where it asks for nothing. */
export interface Budget {
  /** Arrival to last token. */
  readonly latencyMs: number | null;
  /** Arrival to first token. */
  readonly ttftMs: number | null;
  /** Mean time between tokens. */
  readonly tpotMs: number | null;
}

export interface RateQuestion {
  readonly promptTokens: number;
  /** The most that can be generated; the prediction counts on all of it. */
  readonly maxNewTokens: number;
  readonly budget: Budget;
  /** The level to run at, whatever it takes. */
  readonly pinnedLevel: number | null;
  /** The narrowest level allowed. */
  readonly floorLevel: number;
  /** Time since arrival. */
  readonly elapsedMs: number;
}

export interface RateChoice {
  readonly level: number;
  /**
   * `idle`: the full model, nothing asked for less. `budget`: the smallest rate that fits the budget. `pinned`: asked
   * for. `floor`: no allowed rate fits the budget, this is the largest.
   */
  readonly reason: "idle" | "budget" | "pinned" | "floor";
  /** From arrival to the last token. */
  readonly predictedMs: number;
  readonly predictedMsAtRate0: number;
  /** Whether the budget is expected to be met. True without one. */
  readonly fits: boolean;
}

/** Chooses the smallest rate whose predicted times fit the budget. */
export function chooseRate(question: RateQuestion, table: LevelTable): RateChoice {
  const { promptTokens, maxNewTokens, budget, pinnedLevel, floorLevel, elapsedMs } = question;
  const totalMs = (level: number) => elapsedMs + requestMs(table[level]!, promptTokens, maxNewTokens);
  const fits = (level: number) =>
    totalMs(level) <= (budget.latencyMs ?? Infinity) &&
    elapsedMs + prefillMs(table[level]!, promptTokens) <= (budget.ttftMs ?? Infinity) &&
    table[level]!.stepMs <= (budget.tpotMs ?? Infinity);
  const chosen = (level: number, reason: RateChoice["reason"]): RateChoice => ({
    level,
    reason,
    predictedMs: totalMs(level),
    predictedMsAtRate0: totalMs(0),
    fits: fits(level),
  });

  if (pinnedLevel !== null) return chosen(pinnedLevel, "pinned");
  for (let level = 0; level <= floorLevel; level++) {
    if (fits(level)) return chosen(level, level === 0 ? "idle" : "budget");
  }
  return chosen(floorLevel, "floor");
}
