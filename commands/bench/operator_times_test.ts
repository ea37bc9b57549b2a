import { describe, it } from "@std/testing/bdd";
import { deepEqual, throws } from "node:assert/strict";
import { operatorTimes } from "./operator_times.ts";

const run = (ts: number, dur: number) => ({ cat: "Session", name: "model_run", ts, dur });
const node = (operator: string, ts: number, dur: number) => ({
  cat: "Node",
  name: `${operator}_1_kernel_time`,
  ts,
  dur,
  args: { op_name: operator },
});

/** A session's start, a run that is not wanted, and three that are; events are not in order of time. */
const TIMELINE = JSON.stringify([
  { cat: "Session", name: "session_initialization", ts: 0, dur: 50 },
  run(100, 90),
  node("MatMul", 110, 80),
  run(200, 1000),
  node("MatMul", 210, 300),
  node("Add", 520, 40),
  node("MatMul", 600, 100),
  run(2000, 3000),
  node("MatMul", 2010, 700),
  node("Add", 3000, 20),
  { cat: "Node", name: "Add_1_fence_before", ts: 3000, dur: 5 },
  node("MatMul", 3100, 0),
  node("Add", 6010, 30),
  run(6000, 2000),
  node("MatMul", 7000, 500),
  node("MatMul", 7600, 100),
]);

describe("operatorTimes()", () => {
  it("sums nodes by operator within each run, and takes medians over the runs of a label", () => {
    deepEqual(
      operatorTimes(TIMELINE, [null, "decode", "decode", "decode"]),
      new Map([["decode", {
        ms: 2,
        operators: [{ operator: "MatMul", nodes: 2, ms: 0.6 }, { operator: "Add", nodes: 1, ms: 0.03 }],
      }]]),
    );
  });

  it("keeps runs of different labels apart", () => {
    const times = operatorTimes(TIMELINE, ["warm", "decode", null, "prefill"]);
    deepEqual([...times.keys()], ["warm", "decode", "prefill"]);
    deepEqual(times.get("decode")!.operators[0], { operator: "MatMul", nodes: 2, ms: 0.4 });
  });

  it("refuses a timeline of another number of runs", () => {
    throws(() => operatorTimes(TIMELINE, ["decode"]), /a timeline of 4 runs: there are 1 labels/);
  });
});
