import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import type { LoadSnapshot } from "../load.ts";
import { Predictor } from "../predictor.ts";
import { StepCosts } from "../step_costs.ts";
import { predictive } from "./predictive.ts";

/** A decode step takes 10 ms at rate 0, 8 ms at the next level and 6 ms at the last. */
const costs = new StepCosts({
  rows: [1, 8],
  stepMs: [[10, 10], [8, 8], [6, 6]],
  decodeContextMs: [0, 0, 0],
  prefillContextMs: [0, 0, 0],
});
const pruningRates = [0, 0.2, 0.35];

/** A request of 1 prompt token and 10 new ones, 11 steps, that starts alone with so much time left. */
function startOf(
  lastTokenMs: number,
  given: Partial<LoadSnapshot> = {},
): { load: LoadSnapshot; predictor: Predictor } {
  const load: LoadSnapshot = {
    ...{ slots: 2, requestsRunning: 0, requestsWaiting: 0, waitingPromptTokens: 0, effectivePruningRate: 0 },
    ...{ contention: 0, stepRatio: () => 1, betweenStepsMs: 0, predictionError: { median: 1, safe: 1, sure: 1 } },
    arrivals: { perSecond: 0, sustainedPerSecond: 0, promptTokens: 0, newTokens: 0 },
    ...given,
  };
  const predictor = new Predictor({
    ...{ costs, load, prefillChunk: 8, running: [], waiting: [], busyMs: 0, holdsPrompts: true, place: 0 },
    request: {
      ...{ promptTokens: 1, newTokens: 11, instantMs: 0, waitedMs: 0, widestLevel: 0, narrowestLevel: 2 },
      limits: { firstTokenMs: Infinity, lastTokenMs, decodeMs: Infinity },
    },
  });
  return { load, predictor };
}

/** The level that it gets. */
function levelOf(
  lastTokenMs: number,
  given: Partial<LoadSnapshot>,
  policy = predictive({ shed: true, pruningRates }),
): number {
  const { load, predictor } = startOf(lastTokenMs, given);
  const decision = policy.choose(load, { floorLevel: 2, hasBudget: true, stage: "start" }, predictor);
  return decision.kind === "run" ? decision.level : NaN;
}

describe("predictive()", () => {
  it("takes the widest level that is predicted to keep the budget", () => {
    deepEqual([levelOf(111, {}), levelOf(100, {}), levelOf(80, {})], [0, 1, 2]);
  });

  it("takes no narrower one than its floor", () => {
    const policy = predictive({ shed: true, pruningRates }, 1);
    deepEqual([levelOf(111, {}, policy), levelOf(100, {}, policy), levelOf(80, {}, policy)], [0, 1, 1]);
  });

  it("goes back to a wider level than what runs only where that leaves more room", () => {
    const narrow = { effectivePruningRate: 0.35 };
    deepEqual([levelOf(111, narrow), levelOf(122, narrow)], [1, 0]);
    deepEqual([levelOf(111, { effectivePruningRate: 0 }), levelOf(90, { effectivePruningRate: 0.2 })], [0, 1]);
  });

  it("leaves more room the faster requests come", () => {
    const arrivals = (perSecond: number) => ({
      perSecond,
      sustainedPerSecond: perSecond,
      promptTokens: 1,
      newTokens: 11,
    });
    // Two slots sustain 18 such requests a second at rate 0.
    deepEqual([levelOf(130, { arrivals: arrivals(18) }), levelOf(130, { arrivals: arrivals(27) })], [0, 2]);
  });

  it("shuts the door to who may be late while more comes than can be served for long, not while a burst does", () => {
    const { choose } = predictive({ shed: true, pruningRates });
    const kind = (lastTokenMs: number, perSecond: number, sustainedPerSecond: number) => {
      const { load, predictor } = startOf(lastTokenMs, {
        ...{ requestsRunning: 2, predictionError: { median: 1, safe: 1.2, sure: 1.5 } },
        arrivals: { perSecond, sustainedPerSecond, promptTokens: 1, newTokens: 11 },
      });
      return choose(load, { floorLevel: 2, hasBudget: true, stage: "arrival" }, predictor).kind;
    };
    // It takes 66 ms at the narrowest level, and less than 99 surely; two slots sustain 30 such requests a second there.
    deepEqual([kind(80, 60, 60), kind(110, 60, 60), kind(80, 60, 20)], ["refuse", "run", "run"]);
  });

  it("says whether the budget of a pinned request is kept, and whether it is lost", () => {
    const { choosePinned } = predictive({ shed: true, pruningRates });
    const pinned = (lastTokenMs: number, hasBudget = true) => {
      const { load, predictor } = startOf(lastTokenMs);
      return choosePinned!(load, { pinnedLevel: 1, hasBudget, stage: "start" }, predictor);
    };
    const run = { kind: "run", level: 1, reason: "pinned" };
    // It takes 88 ms; with 95 % of that, 83.6, it may be kept by good luck.
    deepEqual(pinned(88), { ...run, fits: true, lost: false });
    deepEqual(pinned(84), { ...run, fits: false, lost: false });
    deepEqual(pinned(83), { ...run, fits: false, lost: true });
    deepEqual(pinned(83, false), { ...run, fits: false, lost: false });
  });
});
