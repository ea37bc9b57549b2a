import { deepEqual, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { mean } from "../statistics.ts";
import { RandomDraws } from "./random.ts";

const many = (draw: (draws: RandomDraws) => number) => {
  const draws = new RandomDraws(1);
  return Array.from({ length: 50_000 }, () => draw(draws));
};
const variance = (values: readonly number[]) => {
  const middle = mean(values);
  return mean(values.map((value) => (value - middle) ** 2));
};

describe("RandomDraws", () => {
  it("draws the same from the same seed", () => {
    const draw = (seed: number) => {
      const draws = new RandomDraws(seed);
      return [draws.uniform(), draws.integer(10), draws.normal(), draws.gamma(0.25), draws.gamma(3)];
    };
    deepEqual(draw(5), draw(5));
    ok(draw(5)[0] !== draw(6)[0]);
  });

  it("draws integers below the end", () => {
    const counts = [0, 0, 0];
    for (const value of many((draws) => draws.integer(3))) counts[value]!++;
    ok(counts.every((count) => Math.abs(count / 50_000 - 1 / 3) < 0.01), `${counts}`);
  });

  it("draws normal numbers of mean 0 and variance 1", () => {
    const values = many((draws) => draws.normal());
    ok(Math.abs(mean(values)) < 0.02 && Math.abs(variance(values) - 1) < 0.03);
  });

  for (const shape of [0.125, 0.25, 1, 4]) {
    it(`draws Gamma numbers of mean and variance ${shape}`, () => {
      const values = many((draws) => draws.gamma(shape));
      ok(values.every((value) => value >= 0));
      ok(Math.abs(mean(values) / shape - 1) < 0.05, `mean ${mean(values)}`);
      ok(Math.abs(variance(values) / shape - 1) < 0.08, `variance ${variance(values)}`);
    });
  }
});
