import { deepEqual, equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { isMet, type Outcome, outcomeOf, type Served } from "./outcome.ts";
import { predictionError, summarize } from "./summary.ts";

const SERVED: Served = {
  ...{ pruningRate: 0, meanPruningRate: 0, reason: "idle", finishReason: "length", tokens: 11 },
  ...{ predictedMs: 90, ttftMs: 20, decodeMs: 80, totalMs: 100, met: true },
};
const outcome = (arrivalMs: number, more: Partial<Outcome>, served: Partial<Served> | null = {}): Outcome => ({
  ...{ round: 0, arrivalMs, sentMs: arrivalMs, promptTokens: 4, newTokens: 11, budgetClass: "tight", budgetMs: 110 },
  ...{ status: served === null ? 429 : 200, ms: 105 },
  served: served === null ? null : { ...SERVED, ...served },
  ...more,
});
const OPTIONS = { seconds: 60, perplexity: new Map([[0, 8], [0.3, 18]]), probes: { metrics: [3, 9], readyz: [4] } };

describe("summarize()", () => {
  const summary = summarize([
    outcome(0, {}),
    outcome(1000, { ms: 120, budgetClass: "loose" }, { pruningRate: 0.3, meanPruningRate: 0.15, totalMs: 60 }),
    outcome(2000, { ms: 7 }, null),
    outcome(30_000, { budgetClass: "loose" }, { predictedMs: 101 }),
    outcome(31_000, { status: 500 }, null),
  ], OPTIONS);

  it("counts answers in time among all that were offered, by the client's clock and by the service's word", () => {
    const { offered, answered, refused, failed, attainment, serverAttainment, admittedMet } = summary;
    deepEqual([offered, answered, refused, failed], [5, 3, 1, 1]);
    deepEqual([attainment, serverAttainment, admittedMet], [2 / 5, 3 / 5, 2 / 3]);
    deepEqual(summary.attainmentByClass, { loose: 1 / 2, tight: 1 / 3 });
  });

  it("averages rates and the logarithm of perplexity over answers", () => {
    ok(Math.abs(summary.meanRate - 0.05) < 1e-12);
    ok(Math.abs(summary.meanLargestRate - 0.1) < 1e-12);
    ok(Math.abs(summary.meanPerplexity - Math.cbrt(8 * 8 * 18)) < 1e-9);
  });

  it("counts tokens in time, changes of rate, and how fast refusals were", () => {
    ok(Math.abs(summary.goodputTokensPerSecond - 22 / 60) < 1e-12);
    equal(summary.switchesPerMinute, 2);
    equal(summary.refusalP99Ms, 7);
    deepEqual(summary.probeP99Ms, { metrics: 9, readyz: 4 });
  });

  it("gives percentiles of times", () => {
    deepEqual([summary.ttftMs.p50, summary.perTokenMs.p99, summary.totalMs.p50, summary.totalMs.p99], [
      20,
      8,
      105,
      120,
    ]);
  });

  it("takes the median error of predictions, and again once they had time to settle", () => {
    ok(Math.abs(summary.predictionError - 0.1) < 1e-12);
    ok(Math.abs(summary.settledPredictionError - 0.01) < 1e-12);
  });

  it("counts the time of every round, as long as its answers take, and no change from one to the next", () => {
    const narrow = { pruningRate: 0.3 };
    const { goodputTokensPerSecond, switchesPerMinute, settledPredictionError } = summarize([
      outcome(0, {}),
      outcome(59_000, { ms: 109, sentMs: 79_891 }),
      outcome(0, { round: 1 }, { ...narrow, predictedMs: 150 }),
      outcome(1000, { round: 1 }),
    ], OPTIONS);
    ok(Math.abs(goodputTokensPerSecond - 44 / (80 + 60)) < 1e-12);
    ok(Math.abs(switchesPerMinute - 60 / (80 + 60)) < 1e-12);
    ok(Math.abs(settledPredictionError - 0.1) < 1e-12);
  });

  it("has no numbers where nothing was answered", () => {
    const { attainment, meanRate, predictionError } = summarize([outcome(0, {}, null)], OPTIONS);
    deepEqual([attainment, meanRate, predictionError], [0, NaN, NaN]);
  });
});

describe("predictionError()", () => {
  it("looks at a span of arrivals only", () => {
    const outcomes = [outcome(0, {}, { predictedMs: 50 }), outcome(10, {}, { predictedMs: 120 })];
    equal(predictionError(outcomes, { fromMs: 0, toMs: 10 }), 0.5);
    ok(Math.abs(predictionError(outcomes, { fromMs: 10, toMs: 11 }) - 0.2) < 1e-12);
  });
});

describe("isMet()", () => {
  it("wants a whole answer in time", () => {
    deepEqual(
      [outcome(0, {}), outcome(0, { ms: 111 }), outcome(0, {}, { finishReason: "budget" }), outcome(0, {}, null)]
        .map(isMet),
      [true, false, false, false],
    );
  });
});

describe("outcomeOf()", () => {
  const request = {
    ...{ round: 2, arrivalMs: 5, promptTokens: 4, newTokens: 2, budgetMs: 50 },
    budgetClass: "tight" as const,
  };

  it("reads an answer", () => {
    const { served, ...seen } = outcomeOf(request, 6, {
      ...{ status: 200, ms: 40, problem: null },
      answer: {
        ...{ finish_reason: "length", pruning_rate: 0.2, mean_pruning_rate: 0.1, reason: "load" },
        usage: { completion_tokens: 2 },
        budget: { predicted_ms: 33, met: true },
        timings_ms: { queue: 1, prefill: 2, decode: 30, total: 33 },
      },
    });
    deepEqual(seen, { ...request, sentMs: 6, status: 200, ms: 40 });
    deepEqual(served, {
      ...{ pruningRate: 0.2, meanPruningRate: 0.1, reason: "load", finishReason: "length", tokens: 2 },
      ...{ predictedMs: 33, ttftMs: 3, decodeMs: 30, totalMs: 33, met: true },
    });
  });

  it("keeps that there was none", () => {
    equal(outcomeOf(request, 6, { status: 429, ms: 3, answer: null, problem: "full" }).served, null);
  });
});
