import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { keptWidth } from "../models/widths.ts";
import { layerRates, uniformRates } from "./layer_rates.ts";

const scores = [0.9, 0.3, 0.1, 0.05, 0.05, 0.08, 0.2];
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

describe("layerRates()", () => {
  it("gives the published example", () => {
    const expected = [0.00014, 0.05506, 0.40681, 0.67072, 0.67072, 0.49688, 0.14966];
    layerRates(scores, 0.35, 0.1).forEach((rate, i) => ok(Math.abs(rate - expected[i]!) < 5e-6));
  });

  it("has the global rate for its mean, whether or not the limit of 0.85 binds", () => {
    for (const pruningRate of [0, 0.05, 0.35, 0.5, 0.6, 0.75, 0.849, 0.85]) {
      const rates = layerRates(scores, pruningRate, 0.1);
      ok(Math.abs(mean(rates) - pruningRate) < 1e-12);
      ok(rates.every((rate) => rate >= 0 && rate <= 0.85));
    }
    equal(layerRates(scores, 0.6, 0.1).filter((rate) => rate === 0.85).length, 4);
  });

  it("gives equal scores equal rates", () => {
    layerRates([0.4, 0.4, 0.4], 0.3, 0.1).forEach((rate) => ok(Math.abs(rate - 0.3) < 1e-15));
  });

  it("takes less where the score is greater", () => {
    for (const pruningRate of [0.2, 0.7]) {
      const rates = layerRates(scores, pruningRate, 0.1);
      scores.forEach((score, i) => scores.forEach((other, j) => ok(score <= other || rates[i]! <= rates[j]!)));
    }
  });

  it("grows with the global rate in every module, so that kept sizes are nested", () => {
    let before = scores.map(() => 0);
    for (let step = 1; step <= 850; step++) {
      const rates = layerRates(scores, step / 1000, 0.1);
      rates.forEach((rate, i) => {
        ok(rate >= before[i]! - 1e-15);
        ok(keptWidth(1536, rate, 32) <= keptWidth(1536, before[i]!, 32));
      });
      before = rates;
    }
  });

  it("survives scores so far apart that all but one weight vanish", () => {
    deepEqual(layerRates([0, 1000, 1000], 0.35, 0.1).map((rate) => Math.round(rate * 1e12) / 1e12), [0.85, 0.1, 0.1]);
  });

  it("refuses rates, temperatures and scores that it cannot share out", () => {
    throws(() => layerRates(scores, 0.9, 0.1), /^RangeError: Cannot allocate a pruning rate of 0.9: /);
    throws(() => layerRates(scores, -0.1, 0.1), /^RangeError/);
    throws(() => layerRates(scores, 0.3, 0), /^RangeError: .* temperature 0/);
    throws(() => layerRates([1, NaN], 0.3, 0.1), /^RangeError: .* the score of module 1 is NaN$/);
  });
});

describe("uniformRates()", () => {
  it("gives every module the global rate", () => {
    deepEqual(uniformRates(3, 0.25), [0.25, 0.25, 0.25]);
    throws(() => uniformRates(3, 1), /^RangeError/);
  });
});
