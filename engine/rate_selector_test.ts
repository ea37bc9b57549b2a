import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Registry } from "prom-client";
import { NO_LIMITS } from "./limits.ts";
import { LoadSensor } from "./load_sensor.ts";
import { createMetrics } from "./metrics.ts";
import type { Decision } from "./policies/mod.ts";
import { RateSelector } from "./rate_selector.ts";
import { StepCosts } from "./step_costs.ts";
import { TOY_TABLE, toyRequest } from "./testing/toy_engine.ts";

const refuse = (): Decision => ({ kind: "refuse" });

/** What a policy's refusal becomes for a request that may go to level 2. */
function refusalOf(pinnedLevel: number | null, onMiss: "degrade" | "reject"): unknown[] {
  const registry = new Registry();
  const metrics = createMetrics(registry);
  metrics.slots.set(2);
  const selector = new RateSelector({
    ...{ costs: new StepCosts(TOY_TABLE), prefillChunk: 8, narrows: true },
    policy: { choose: refuse, choosePinned: refuse },
    sensor: new LoadSensor({ metrics, registry }),
  });
  const work = { promptTokens: 3, newTokens: 4, limits: NO_LIMITS, waitedMs: 0, instantMs: 0 };
  const answer = selector.choose({
    ...{ request: toyRequest({ pinnedLevel, onMiss }), stage: "arrival", place: 0, nowMs: 1000 },
    work: { ...work, widestLevel: pinnedLevel ?? 0, narrowestLevel: pinnedLevel ?? 2 },
    ...{ running: [], waiting: [], busyMs: 0 },
  });
  const { level, reason, predictedMs } = answer.choice;
  return [answer.kind, answer.kind === "refuse" && answer.reason, level, reason, predictedMs];
}

describe("RateSelector.choose()", () => {
  it("describes a refusal by the level that the request was pinned to, or else by its floor", () => {
    // Four steps of 8 ms at level 1 and of 6 ms at level 2; that of the prompt's three rows takes a sixth more.
    deepEqual(refusalOf(1, "degrade"), ["refuse", "overload", 1, "pinned", 8 * (4 + 1 / 6)]);
    deepEqual(refusalOf(null, "degrade"), ["refuse", "overload", 2, "floor", 6 * (4 + 1 / 6)]);
    deepEqual(refusalOf(null, "reject").slice(0, 2), ["refuse", "budget"]);
  });
});
