import { equal, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { phaseOf, StepCosts, type StepPart, type StepTable, widestLevel } from "./step_costs.ts";

const TABLE: StepTable = {
  rows: [1, 4, 8],
  stepMs: [[10, 16, 40], [8, 11, 27], [6, 9, 21]],
  decodeContextMs: [0.02, 0.01, 0],
  prefillContextMs: [0.002, 0.001, 0],
};
const costs = new StepCosts(TABLE);
const decode = (level: number, context = 0): StepPart => ({ level, phase: "decode", rows: 1, context });
const prefill = (level: number, rows: number, context = 0): StepPart => ({ level, phase: "prefill", rows, context });

describe("StepCosts", () => {
  it("lies on lines between the measured sizes, and in proportion beyond the last", () => {
    equal(costs.stepMs([decode(0)]), 10);
    equal(costs.stepMs([decode(0), decode(0)]), 12);
    equal(costs.stepMs([prefill(2, 6)]), 15);
    equal(costs.stepMs([prefill(1, 16)]), 54);
  });

  it("pays for what a wide level adds only for the rows that are as wide", () => {
    // Four rows at the last level; what levels 1 and 0 add, once for one row.
    equal(costs.stepMs([decode(2), decode(0), decode(2), decode(2)]), 9 + (8 - 6) + (10 - 8));
    equal(costs.stepMs([decode(1), decode(1), decode(2), decode(2)]), 9 + (9 - 7));
  });

  it("adds what contexts cost each row", () => {
    equal(costs.stepMs([decode(0, 100)]), 10 + 2);
    equal(costs.stepMs([prefill(0, 4, 10)]), 16 + 0.002 * 4 * 10);
  });

  it("knows the widest level and the phase of a step", () => {
    equal(widestLevel([decode(2), decode(1)]), 1);
    equal(phaseOf([decode(2), decode(1)]), "decode");
    equal(phaseOf([decode(2), prefill(1, 3)]), "prefill");
  });

  it("refuses a table that does not fit together", () => {
    throws(() => new StepCosts({ ...TABLE, decodeContextMs: [0] }), /different lengths/);
    throws(() => new StepCosts({ ...TABLE, rows: [1, 8, 4] }), /must rise/);
    throws(() => new StepCosts({ ...TABLE, rows: [2, 4, 8] }), /must rise from 1/);
  });
});
