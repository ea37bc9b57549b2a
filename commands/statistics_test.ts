import { deepEqual, equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { mean, median, percentile } from "./statistics.ts";

describe("percentile()", () => {
  it("is the least value that so many do not exceed", () => {
    const values = Array.from({ length: 100 }, (_, i) => 100 - i);
    deepEqual([0, 0.5, 0.95, 0.99, 1].map((share) => percentile(values, share)), [1, 50, 95, 99, 100]);
    equal(percentile([3, 1], 0.99), 3);
  });

  it("is no number without values", () => ok(Number.isNaN(percentile([], 0.5))));
});

describe("median() and mean()", () => {
  it("are in the middle", () => {
    deepEqual([median([9, 1, 2]), median([4, 1, 2, 9]), mean([1, 2, 6])], [2, 3, 3]);
  });

  it("are no numbers without values", () => ok(Number.isNaN(median([])) && Number.isNaN(mean([]))));
});
