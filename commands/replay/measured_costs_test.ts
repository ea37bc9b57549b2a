import { equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { StepClock } from "./measured_costs.ts";

const clock = new StepClock({
  decodeMs: [[10, 16], [6, 9]],
  prefillMs: [[{ rows: 1, ms: 9 }, { rows: 4, ms: 30 }], [{ rows: 1, ms: 5 }, { rows: 4, ms: 17 }]],
});

describe("StepClock", () => {
  it("gives back what was measured at one level", () => {
    equal(clock.stepMs([1, 0], [0, 0]), 10);
    equal(clock.stepMs([2, 0], [0, 0]), 16);
    equal(clock.stepMs([0, 2], [0, 0]), 9);
    equal(clock.stepMs([0, 0], [4, 0]), 30);
    equal(clock.stepMs([0, 0], [0, 1]), 5);
  });

  it("goes straight between measured sizes", () => equal(clock.stepMs([0, 0], [2, 0]), 16));

  it("adds to a mixed step what the wider rows cost more", () => {
    // Both at the narrow level 9; one of them at the wide one: 10 − 6 more.
    equal(clock.stepMs([1, 1], [0, 0]), 13);
  });

  it("adds to a decode step what prompt rows cost beside as many prompt rows", () => {
    equal(clock.stepMs([0, 1], [0, 3]), 6 + (17 - 5));
  });

  it("takes no time off a decode step for a prompt row", () => {
    // At the wide level the first row adds 20 to what the narrow one costs, two rows add nothing.
    const steep = new StepClock({
      decodeMs: [[10, 16], [6, 9]],
      prefillMs: [
        [{ rows: 1, ms: 25 }, { rows: 2, ms: 26 }, { rows: 4, ms: 27 }],
        [{ rows: 1, ms: 5 }, { rows: 2, ms: 26 }, { rows: 4, ms: 27 }],
      ],
    });
    equal(steep.stepMs([1, 1], [1, 0]), steep.stepMs([1, 1], [0, 0]));
  });

  it("knows what a request takes alone, chunk by chunk", () => {
    equal(clock.aloneMs(0, 4, 1), 30);
    equal(clock.aloneMs(0, 5, 3), 30 + 9 + 2 * 10);
    equal(clock.aloneMs(1, 2, 2), 9 + 6);
  });
});
