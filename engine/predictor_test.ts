import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { NO_LIMITS } from "./limits.ts";
import type { LoadSnapshot } from "./load.ts";
import { Situation } from "./predictor.ts";
import type { RunningWork } from "./request_work.ts";
import { StepCosts } from "./step_costs.ts";

/** A step takes 10 ms, and 1 ms for every row. */
const costs = new StepCosts({ rows: [1, 201], stepMs: [[11, 211]], decodeContextMs: [0], prefillContextMs: [0] });
const load: LoadSnapshot = {
  ...{ slots: 4, requestsRunning: 2, requestsWaiting: 0, waitingPromptTokens: 0, effectivePruningRate: 0 },
  ...{ contention: 0, stepRatio: () => 1, betweenStepsMs: 0, predictionError: { median: 1, safe: 1, sure: 1 } },
  arrivals: { perSecond: 0, sustainedPerSecond: 0, promptTokens: 0, newTokens: 0 },
};

describe("Situation.promptsHeld()", () => {
  /** For an answer of three more tokens that are due in 50 ms; they take 33 without prompts. */
  const held = (promptTokens: number, due: Partial<RunningWork["limits"]>, busyMs = 0) => {
    const work = { level: 0, narrowestLevel: 0, context: 0 };
    const answer = { ...work, promptTokens: 0, newTokens: 3, instantMs: 0, limits: { ...NO_LIMITS, lastTokenMs: 50 } };
    const prompt = { ...work, promptTokens, newTokens: 1, instantMs: 1, limits: { ...NO_LIMITS, ...due } };
    const running = [prompt, answer];
    const waiting = { waiting: [], holdsPrompts: true };
    return new Situation({ ...waiting, costs, load, prefillChunk: 100, running, busyMs }).promptsHeld();
  };

  it("is true where a prompt would cost an answer its budget, and lose none by waiting", () => {
    deepEqual([held(100, {}), held(400, {})], [true, true]);
    deepEqual([held(100, { firstTokenMs: 144 }), held(400, { lastTokenMs: 477 })], [true, true]);
  });

  it("is false where the prompt's own answer would be late by it, of however many chunks it is", () => {
    deepEqual([held(100, { firstTokenMs: 143 }), held(100, { lastTokenMs: 143 })], [false, false]);
    deepEqual([held(400, { firstTokenMs: 476 }), held(400, { lastTokenMs: 476 })], [false, false]);
  });

  it("counts from when the present step ends", () => {
    deepEqual([held(100, {}, 17), held(100, {}, 18)], [true, false]);
    deepEqual([held(100, { firstTokenMs: 144 }, 1), held(100, { firstTokenMs: 145 }, 1)], [false, true]);
  });
});
