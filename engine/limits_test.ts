import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { limitsOf, NO_LIMITS, NO_TARGETS } from "./limits.ts";

const NONE = { latencyMs: null, ttftMs: null, tpotMs: null };
const at = { nowMs: 300, newTokens: 11, targets: NO_TARGETS, firstTokenMs: null };

describe("limitsOf()", () => {
  it("counts what is left of each budget from now", () => {
    const budget = { latencyMs: 1000, ttftMs: 400, tpotMs: 20 };
    deepEqual(limitsOf({ budget, arrivedMs: 100 }, at), { firstTokenMs: 200, lastTokenMs: 800, decodeMs: 200 });
  });

  it("takes the targets where there is no budget, and only there", () => {
    const targets = { ttftMs: 500, tpotMs: 30 };
    deepEqual(limitsOf({ budget: NONE, arrivedMs: 100 }, { ...at, targets }), {
      firstTokenMs: 300,
      lastTokenMs: Infinity,
      decodeMs: 300,
    });
    deepEqual(limitsOf({ budget: { ...NONE, latencyMs: 900 }, arrivedMs: 100 }, { ...at, targets }), {
      ...NO_LIMITS,
      lastTokenMs: 700,
    });
  });

  it("holds a running answer to its pace by its end", () => {
    const budget = { latencyMs: null, ttftMs: 1, tpotMs: 20 };
    deepEqual(limitsOf({ budget, arrivedMs: 100 }, { ...at, firstTokenMs: 250 }), { ...NO_LIMITS, lastTokenMs: 150 });
  });
});
