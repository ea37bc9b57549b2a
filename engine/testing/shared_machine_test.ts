import { deepEqual, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import type { StepPart } from "../step_costs.ts";
import { SharedMachine } from "./shared_machine.ts";
import { REPLAYED } from "./virtual_service.ts";

/** Median times of so many steps in each of 60 spans of 5 s. */
function medians(parts: readonly StepPart[], seed: number, steps: number): number[] {
  const machine = new SharedMachine(REPLAYED.machine, seed);
  return Array.from({ length: 60 }, (_, span) => {
    const times = Array.from({ length: steps }, (_, i) => machine.stepMs(parts, 5000 * (span + i / steps)));
    return times.sort((a, b) => a - b)[steps >> 1]!;
  });
}

const decoding = (sequences: number): StepPart[] =>
  Array.from({ length: sequences }, () => ({ level: 0, phase: "decode", rows: 1, context: 0 }));
const prompt: StepPart[] = [{ level: 0, phase: "prefill", rows: 128, context: 0 }];

const spread = (values: readonly number[]) => Math.max(...values) / Math.min(...values);

describe("SharedMachine", () => {
  it("takes half as long again for a row alone while memory is slow, and hardly longer for more", () => {
    const [alone, together, prompts] = [decoding(1), decoding(4), prompt].map((parts) => medians(parts, 3, 1001));
    ok(spread(alone!) > 1.45, `${spread(alone!)}`);
    ok(spread(together!) < 1.35, `${spread(together!)}`);
    ok(spread(prompts!) < 1.35, `${spread(prompts!)}`);
  });

  it("is slow at the same times for everybody", () => {
    const slow = (steps: number) => {
      const found = medians(decoding(1), 3, steps);
      const middle = Math.sqrt(Math.max(...found) * Math.min(...found));
      return found.map((ms) => ms > middle);
    };
    deepEqual(slow(1001), slow(2001));
  });
});
