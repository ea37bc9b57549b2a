import { deepEqual, equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Gauge, Registry } from "prom-client";
import { type LearnedTimes, LoadSensor } from "./load_sensor.ts";
import { createMetrics } from "./metrics.ts";

function sensed(learned?: LearnedTimes) {
  const registry = new Registry();
  const metrics = createMetrics(registry);
  return { registry, metrics, sensor: new LoadSensor({ metrics, registry, learned }) };
}

describe("LoadSensor", () => {
  it("reads the gauges as they stand, and another sensor's in the same registry", () => {
    const { registry, metrics, sensor } = sensed();
    metrics.slots.set(4);
    metrics.requestsRunning.set(3);
    metrics.requestsWaiting.set(2);
    metrics.waitingPromptTokens.set(70);
    equal(sensor.snapshot(0).contention, 0);
    const gauge = new Gauge({ name: "espalier_load_contention_ratio", help: "test", registers: [registry] });
    gauge.set(0.4);
    const { slots, requestsRunning, requestsWaiting, waitingPromptTokens, contention } = sensor.snapshot(0);
    deepEqual([slots, requestsRunning, requestsWaiting, waitingPromptTokens, contention], [4, 3, 2, 70, 0.4]);
  });

  it("learns from the histogram of steps what the table lacks", () => {
    const { metrics, sensor } = sensed();
    for (let i = 0; i < 40; i++) {
      metrics.stepSeconds.observe({ phase: "decode", rate: "0" }, 0.03);
      metrics.stepPredictedSeconds.inc({ phase: "decode", rate: "0" }, 0.02);
      sensor.readSteps(3);
    }
    const ratio = (sequences: number) => sensor.snapshot(0).stepRatio({ phase: "decode", sequences });
    ok(Math.abs(ratio(3) - 1.5) < 0.05);
    ok(ratio(1) < ratio(3), "it knows how many had a part");
  });

  it("learns what the service does between two steps from the first ones on, whatever one pause takes", () => {
    const { metrics, sensor } = sensed();
    const pause = (ms: number) => {
      metrics.betweenSteps.observe(ms / 1000);
      sensor.readSteps(1);
      return sensor.snapshot(0).betweenStepsMs;
    };
    equal(sensor.snapshot(0).betweenStepsMs, 0);
    for (const ms of [pause(0.4), pause(0.4)]) ok(Math.abs(ms - 0.4) < 1e-9, `${ms}`);
    for (let i = 0; i < 60; i++) pause(0.6);
    ok(Math.abs(pause(0.6) - 0.6) < 0.02);
    ok(pause(5000) < 0.64);
  });

  it("begins with what another has learned of steps, and changes no faster than that one", () => {
    const { metrics, sensor } = sensed();
    for (let i = 0; i < 100; i++) {
      metrics.stepSeconds.observe({ phase: "decode", rate: "0" }, 0.03);
      metrics.stepPredictedSeconds.inc({ phase: "decode", rate: "0" }, 0.02);
      metrics.betweenSteps.observe(0.0004);
      sensor.readSteps(1);
    }
    const before = sensor.snapshot(0);
    const next = sensed(sensor.learned);
    const start = next.sensor.snapshot(0);
    equal(start.betweenStepsMs, before.betweenStepsMs);
    const kind = { phase: "decode", sequences: 1 } as const;
    equal(start.stepRatio(kind), before.stepRatio(kind));
    next.metrics.betweenSteps.observe(1);
    next.sensor.readSteps(1);
    ok(next.sensor.snapshot(0).betweenStepsMs < 1.04 * before.betweenStepsMs);
  });

  it("learns the median of the prediction error, of those alone whom nothing held up by far, and its spread", () => {
    for (const { heldUp, expected } of [{ heldUp: 1.3, expected: 1.2 }, { heldUp: 3, expected: (1.15 + 1.2) / 2 }]) {
      const { metrics, sensor } = sensed();
      equal(sensor.snapshot(0).predictionError.median, 1);
      for (let i = 0; i < 200; i++) {
        const actual = i % 3 === 0 ? heldUp : i % 3 === 1 ? 1.2 : 1.15;
        // Predictions are corrected by what is known, as the predictor does it.
        metrics.predictionErrorRatio.observe(actual / sensor.snapshot(0).predictionError.median);
        sensor.readRequests();
      }
      const { median, safe, sure } = sensor.snapshot(0).predictionError;
      ok(Math.abs(median - expected) < 0.02, `${median}`);
      ok(heldUp < 2 ? safe > 1.2 && safe < 1.3 : safe > 1.5, `${safe}`);
      // As many standard deviations above the median as nineteen of twenty stay below, where four of five do at 0.84.
      ok(Math.abs(Math.log(sure / median) / Math.log(safe / median) - 1.64 / 0.84) < 1e-9, `${sure}`);
    }
  });

  it("corrects predictions soon where one request after the other takes longer", () => {
    const { metrics, sensor } = sensed();
    for (let i = 0; i < 40; i++) {
      metrics.predictionErrorRatio.observe((i % 2 === 0 ? 1.9 : 2.1) / sensor.snapshot(0).predictionError.median);
      sensor.readRequests();
    }
    const { median } = sensor.snapshot(0).predictionError;
    ok(Math.abs(median - 2) < 0.1, `${median}`);
  });

  it("counts the pace of arrivals and the mean request", () => {
    const { metrics, sensor } = sensed();
    for (let second = 0; second < 120; second++) {
      metrics.requestsArrived.inc(2);
      sensor.snapshot(1000 * second);
    }
    equal(sensor.snapshot(120_000).arrivals.perSecond, 0, "nothing is known of their work");
    metrics.requestPromptTokens.observe(10);
    metrics.requestGenerationTokens.observe(20);
    const { perSecond, promptTokens, newTokens } = sensor.snapshot(120_000).arrivals;
    ok(Math.abs(perSecond - 2) < 0.2, `${perSecond}`);
    deepEqual([promptTokens, newTokens], [10, 20]);
  });

  it("takes a burst for less over a longer time", () => {
    const { metrics, sensor } = sensed();
    metrics.requestPromptTokens.observe(10);
    metrics.requestGenerationTokens.observe(20);
    for (let second = 0; second < 200; second++) {
      metrics.requestsArrived.inc(second < 190 ? 1 : 5);
      sensor.snapshot(1000 * second);
    }
    const { perSecond, sustainedPerSecond } = sensor.snapshot(200_000).arrivals;
    ok(perSecond > 3 && sustainedPerSecond < 2, `${perSecond} and ${sustainedPerSecond}`);
  });

  it("knows the pace of arrivals soon after the start", () => {
    const { metrics, sensor } = sensed();
    metrics.requestPromptTokens.observe(10);
    metrics.requestGenerationTokens.observe(20);
    const paces = Array.from({ length: 6 }, (_, second) => {
      const { perSecond, sustainedPerSecond } = sensor.snapshot(1000 * second).arrivals;
      ok(Math.abs(sustainedPerSecond - perSecond) < 0.3, `${sustainedPerSecond} and ${perSecond} after ${second} s`);
      metrics.requestsArrived.inc(3);
      return perSecond;
    });
    ok(paces[1]! < 1.5, `${paces[1]} after one second: it may be chance`);
    ok(Math.abs(paces[5]! - 3) < 0.1, `${paces[5]} after five`);
  });

  it("expects answers as long as those that ended by themselves, whatever cut the others off", () => {
    const { metrics, sensor } = sensed();
    const expected = () => sensor.answerLengths.remaining(0, 256);
    const end = (reason: string, tokens: number) => {
      metrics.generationLength.observe({ reason }, tokens);
      sensor.readRequests();
    };
    for (let i = 0; i < 20; i++) end(i % 2 === 0 ? "length" : "budget", 8);
    equal(expected(), 256);
    for (let i = 0; i < 40; i++) {
      end("stop", 12 + i % 9);
      end("length", 4);
    }
    ok(Math.abs(expected() - 16) < 1, `${expected()}`);
  });
});
