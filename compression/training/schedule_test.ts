import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import { learningRateAt } from "./schedule.ts";

describe("learningRateAt()", () => {
  const schedule = { steps: 101, warmUpSteps: 10, peak: 2, end: 0.5 };
  const rates = Array.from({ length: schedule.steps }, (_, step) => learningRateAt(step, schedule));

  it("rises in equal steps to the peak", () => {
    deepEqual(
      rates.slice(0, 10).map((rate) => rate.toFixed(6)),
      [2, 4, 6, 8, 10, 12, 14, 16, 18, 20].map((tenths) => (tenths / 10).toFixed(6)),
    );
    equal(rates[10], 2);
  });

  it("falls along half a cosine to its end", () => {
    ok(rates.slice(10).every((rate, i, falling) => i === 0 || rate < falling[i - 1]!));
    equal(rates[55]!.toFixed(9), "1.250000000"); // halfway in time and height
    equal(rates[100], 0.5);
  });
});
