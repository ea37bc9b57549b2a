import { deepEqual, equal, ok } from "node:assert/strict";
import { Registry } from "prom-client";
import { describe, it } from "@std/testing/bdd";
import { createMetrics } from "./metrics.ts";
import { scaledTable, TableWatch } from "./table_watch.ts";

/** What the watch says after spans of so many steps that take so many times what is predicted. */
function looks(spans: readonly [ratio: number, steps: number][]): (number | null)[] {
  const metrics = createMetrics(new Registry());
  const watch = new TableWatch(metrics);
  return spans.map(([ratio, steps]) => {
    for (let step = 0; step < steps; step++) {
      metrics.stepSeconds.observe({ phase: "decode", rate: "0" }, 0.01 * ratio);
      metrics.stepPredictedSeconds.inc({ phase: "decode", rate: "0" }, 0.01);
    }
    return watch.look();
  });
}

const times = <T>(count: number, value: T): T[] => Array.from({ length: count }, () => value);

describe("TableWatch", () => {
  it("wants a correction after five spans that differ to the same side, once", () => {
    const said = looks([
      ...times(4, [0.6, 100] as [number, number]),
      [0.6, 100],
      ...times(6, [0.6, 100] as [number, number]),
    ]);
    deepEqual(said.map((factor) => factor === null ? null : Math.round(factor * 1e6) / 1e6), [
      ...times(4, null),
      0.6,
      ...times(6, null),
    ]);
  });

  it("does not mind what passes, what is small, and spans in which little happened", () => {
    for (
      const spans of [
        [...times(4, [2, 100]), [1, 100], ...times(4, [2, 100])],
        [...times(4, [2, 100]), [0.5, 100], ...times(3, [2, 100])],
        times(9, [1.08, 100]),
        times(9, [2, 5]),
      ] as [number, number][][]
    ) {
      ok(looks(spans).every((factor) => factor === null));
    }
  });

  it("corrects again from what it has corrected", () => {
    const said = looks([...times(5, [2, 60] as [number, number]), ...times(5, [1, 60] as [number, number])]);
    equal(said.filter((factor) => factor !== null).length, 2);
    ok(Math.abs(said.at(-1)! - 1) < 1e-9);
  });
});

describe("scaledTable()", () => {
  it("multiplies times and leaves sizes", () => {
    const table = { rows: [1, 4], stepMs: [[2, 3]], decodeContextMs: [0.5], prefillContextMs: [1] };
    deepEqual(scaledTable(table, 2), { rows: [1, 4], stepMs: [[4, 6]], decodeContextMs: [1], prefillContextMs: [2] });
  });
});
