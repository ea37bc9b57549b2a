import { equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { PATIENCE_MS, queueInstant } from "./queue_order.ts";

const NONE = { latencyMs: null, ttftMs: null, tpotMs: null };
const instant = (
  budget: Partial<typeof NONE | Record<string, number>>,
  hopeless = false,
  ttftMs: number | null = 2000,
) => queueInstant({ arrivedMs: 100, budget: { ...NONE, ...budget } }, { targets: { ttftMs, tpotMs: null }, hopeless });

describe("queueInstant()", () => {
  it("is when a budget can first be broken", () => {
    equal(instant({ latencyMs: 900 }), 1000);
    equal(instant({ latencyMs: 900, ttftMs: 300 }), 400);
  });

  it("is when the service's target is broken, without a budget", () => {
    equal(instant({}), 2100);
    equal(instant({ tpotMs: 10 }), 2100);
    equal(instant({}, false, null), 100 + PATIENCE_MS);
  });

  it("is never later than patience allows, nor for the hopeless", () => {
    equal(instant({ latencyMs: 3_600_000 }), 100 + PATIENCE_MS);
    equal(instant({ latencyMs: 10 }, true), 100 + PATIENCE_MS);
  });
});
