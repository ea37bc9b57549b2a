import { describe as suite, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { searchScale } from "./scale_search.ts";

suite("searchScale()", () => {
  const even = new Float64Array(6).fill(1);

  for (const sign of [1, -1]) {
    it(`gives a greatest weight ${sign > 0 ? "below" : "above"} zero the code that has no counterpart`, () => {
      const codes = [-8, 7, -5, 3, 1, 0];
      equal(searchScale(Float64Array.from(codes, (code) => code * sign * 0.25), even, 6), sign * 0.25);
    });
  }

  it("lets an error count for what its place costs", () => {
    const weights = Float64Array.of(1, 0.1, 0.2, 0.3, 0.2, 0.1);
    const importance = Float64Array.of(1e-6, 1, 1, 1, 1, 1);
    ok(Math.abs(searchScale(weights, importance, 6)) < 0.9 * Math.abs(searchScale(weights, even, 6)));
  });
});
