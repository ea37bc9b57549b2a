import { deepEqual, equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { mean, median } from "../statistics.ts";
import { arrivalsMs, scaledTrace, SHAPES_OF_LOAD, traceWork } from "./trace.ts";

const LENGTHS = { seed: 1, promptTokens: 40, newTokens: 20, tightShare: 0.25 };

describe("traceWork()", () => {
  it("draws lengths around their medians and classes by their share", () => {
    const work = traceWork(4000, LENGTHS);
    const [prompts, answers] = [work.map(({ promptTokens }) => promptTokens), work.map(({ newTokens }) => newTokens)];
    ok(Math.abs(median(prompts) - 40) <= 1 && Math.abs(median(answers) - 20) <= 1);
    ok(Math.min(...prompts) >= 10 && Math.max(...prompts) <= 160);
    const tight = work.filter(({ budgetClass }) => budgetClass === "tight").length / work.length;
    ok(Math.abs(tight - 0.25) < 0.03, `${tight}`);
  });

  it("begins alike, however long it is", () => deepEqual(traceWork(30, LENGTHS).slice(0, 10), traceWork(10, LENGTHS)));

  it("gives every request a token at least", () =>
    ok(traceWork(200, { ...LENGTHS, promptTokens: 1, newTokens: 1 }).every(({ newTokens }) => newTokens >= 1)));
});

describe("arrivalsMs()", () => {
  const options = { seed: 3, seconds: 100, shape: "gamma", cv2: 4 } as const;

  for (const shape of SHAPES_OF_LOAD) {
    it(`${shape}: gives every request a time within the trace, ascending, and the same again`, () => {
      const times = arrivalsMs(500, { ...options, shape });
      equal(times.length, 500);
      ok(times.every((time, i) => time >= (times[i - 1] ?? 0) && time < 100_000));
      deepEqual(times, arrivalsMs(500, { ...options, shape }));
    });
  }

  for (const cv2 of [1, 4, 8]) {
    it(`has gaps whose squared coefficient of variation is ${cv2}`, () => {
      const times = arrivalsMs(20_000, { ...options, cv2 });
      const gaps = times.map((time, i) => time - (times[i - 1] ?? 0));
      const middle = mean(gaps);
      const found = mean(gaps.map((gap) => (gap / middle - 1) ** 2));
      ok(Math.abs(found / cv2 - 1) < 0.1, `${found}`);
    });
  }

  it("offers four times as much in the middle of a step", () => {
    const times = arrivalsMs(9000, { ...options, shape: "step", cv2: 1 });
    const thirds = [0, 1, 2].map((third) => times.filter((time) => Math.floor(time * 3 / 100_000) === third).length);
    ok(Math.abs(thirds[1]! / thirds[0]! - 4) < 0.3 && Math.abs(thirds[1]! / thirds[2]! - 4) < 0.3, `${thirds}`);
  });

  it("goes up and down twice in a sine", () => {
    const times = arrivalsMs(8000, { ...options, shape: "sine", cv2: 1 });
    const eighths = Array.from(
      { length: 4 },
      (_, i) => times.filter((time) => Math.floor(time * 4 / 100_000) === i).length,
    );
    ok(eighths[0]! > 2 * eighths[1]! && eighths[2]! > 2 * eighths[3]!, `${eighths}`);
  });
});

describe("scaledTrace()", () => {
  const trace = [2000, 3000, 5000, 8000].map((arrivalMs) => ({
    ...{ arrivalMs, promptTokens: 1, newTokens: 1 },
    budgetClass: "loose" as const,
  }));

  it("keeps the gaps' ratios and makes the load what was asked for", () => {
    const scaled = scaledTrace(trace, { requestsPerSecond: 2, seconds: 60 });
    deepEqual(scaled.map(({ arrivalMs }) => arrivalMs), [0, 250, 750, 1500]);
  });

  it("ends with the given time", () => {
    equal(scaledTrace(trace, { requestsPerSecond: 0.5, seconds: 3.5 }).length, 3);
  });

  it("sends a single request at once", () => {
    deepEqual(scaledTrace(trace.slice(0, 1), { requestsPerSecond: 1, seconds: 1 }).map((r) => r.arrivalMs), [0]);
  });
});
