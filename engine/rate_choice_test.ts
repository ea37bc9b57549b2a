import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { type Budget, chooseRate, type RateQuestion } from "./rate_choice.ts";

const NONE: Budget = { latencyMs: null, ttftMs: null, tpotMs: null };

/** A prompt of 10 and 11 tokens to come: 20 + 10 · 10 ms at level 0, 14 + 10 · 8 at level 1, 10 + 10 · 5 at level 2. */
const TABLE = [
  { stepMs: 10, chunks: [{ rows: 10, ms: 20 }] },
  { stepMs: 8, chunks: [{ rows: 10, ms: 14 }] },
  { stepMs: 5, chunks: [{ rows: 10, ms: 10 }] },
];
const choose = (question: Partial<RateQuestion>) =>
  chooseRate(
    { promptTokens: 10, maxNewTokens: 11, budget: NONE, pinnedLevel: null, floorLevel: 2, elapsedMs: 0, ...question },
    TABLE,
  );
const level = (budget: Partial<Budget>, rest: Partial<RateQuestion> = {}) => {
  const choice = choose({ budget: { ...NONE, ...budget }, ...rest });
  return [choice.level, choice.reason, choice.fits];
};

describe("chooseRate()", () => {
  it("takes the full model when nothing asks for less", () => {
    deepEqual(choose({}), { level: 0, reason: "idle", predictedMs: 120, predictedMsAtRate0: 120, fits: true });
    deepEqual(level({ latencyMs: 120 }), [0, "idle", true]);
  });

  it("takes the smallest rate that fits each part of the budget", () => {
    deepEqual(level({ latencyMs: 119 }), [1, "budget", true]);
    deepEqual(level({ latencyMs: 93 }), [2, "budget", true]);
    deepEqual(level({ ttftMs: 13 }), [2, "budget", true]);
    deepEqual(level({ tpotMs: 8 }), [1, "budget", true]);
    deepEqual(level({ latencyMs: 119, tpotMs: 5 }), [2, "budget", true]);
  });

  it("counts the time that has gone since arrival", () => {
    deepEqual(level({ latencyMs: 120 }, { elapsedMs: 1 }), [1, "budget", true]);
    deepEqual(level({ ttftMs: 20 }, { elapsedMs: 11 }), [2, "floor", false]);
    equal(choose({ elapsedMs: 7 }).predictedMs, 127);
  });

  it("stops at the floor", () => {
    deepEqual(level({ latencyMs: 1 }), [2, "floor", false]);
    deepEqual(level({ latencyMs: 60 }, { floorLevel: 1 }), [1, "floor", false]);
    deepEqual(level({ latencyMs: 1 }, { floorLevel: 0 }), [0, "floor", false]);
  });

  it("keeps a pinned rate and says whether it fits", () => {
    deepEqual(level({ latencyMs: 100 }, { pinnedLevel: 2 }), [2, "pinned", true]);
    deepEqual(level({ latencyMs: 100 }, { pinnedLevel: 0 }), [0, "pinned", false]);
  });
});
