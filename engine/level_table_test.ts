import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { chunkMs, measureLevels, neverRising, prefillMs, requestMs } from "./level_table.ts";
import { ToyRunner } from "./testing/toy_runner.ts";

const COSTS = { stepMs: 10, chunks: [{ rows: 11, ms: 20 }, { rows: 21, ms: 50 }] };

describe("LevelTable", () => {
  it("takes chunks between the measured sizes to lie on lines", () => {
    deepEqual([1, 6, 11, 16, 21, 42].map((rows) => chunkMs(COSTS, rows)), [10, 15, 20, 35, 50, 100]);
  });

  it("adds up full chunks, a rest, and steps", () => {
    equal(prefillMs(COSTS, 42), 100);
    equal(prefillMs(COSTS, 48), 115);
    equal(requestMs(COSTS, 48, 1), 115);
    equal(requestMs(COSTS, 48, 3), 135);
  });
});

describe("measureLevels()", () => {
  /** A step takes 8 ms less the level, and a quarter of a millisecond for every row. */
  const measured = async (runnerOptions: { maxTokens?: number }, prefillChunk: number, budgetMs: number) => {
    let clock = 0;
    const runner = new ToyRunner({
      ...runnerOptions,
      onStep: ([entry]) => void (clock += 8 - entry!.sequence.level + entry!.tokens.length / 4),
    });
    const seen: number[] = [];
    const onLevel = (level: number) => void seen.push(level);
    const table = await measureLevels(runner, { levels: 2, prefillChunk, now: () => clock, budgetMs, onLevel });
    return { table, runner, seen };
  };

  it("finds what steps and chunks cost, and frees all slots", async () => {
    const { table, runner, seen } = await measured({}, 32, 1000);
    deepEqual(table, [
      { stepMs: 8.25, chunks: [{ rows: 16, ms: 12 }, { rows: 32, ms: 16 }] },
      { stepMs: 7.25, chunks: [{ rows: 16, ms: 11 }, { rows: 32, ms: 15 }] },
    ]);
    equal(runner.freeSlots, 2);
    deepEqual(seen, [0, 1]);
  });

  it("measures everything once when there is no time", async () => {
    const { runner, table } = await measured({}, 32, 0);
    equal(runner.steps.length, (1 + 4) + 2 * (1 + 1 + 4));
    equal(table[1]!.stepMs, 7.25);
  });

  it("gives levels their mean where a narrower one was slower", async () => {
    let clock = 0;
    const runner = new ToyRunner({ onStep: ([entry]) => void (clock += [8, 4, 6][entry!.sequence.level]!) });
    const table = await measureLevels(runner, { levels: 3, prefillChunk: 8, now: () => clock, budgetMs: 0 });
    deepEqual(table.map(({ stepMs }) => stepMs), [8, 5, 5]);
  });

  it("keeps to the tokens that a sequence can hold", async () => {
    const { table } = await measured({ maxTokens: 3 }, 32, 0);
    deepEqual(table[0], { stepMs: 8.25, chunks: [{ rows: 3, ms: 8.75 }] });
  });
});

describe("neverRising()", () => {
  it("leaves what never rises, and pools what does", () => {
    deepEqual(neverRising([5, 5, 3]), [5, 5, 3]);
    deepEqual(neverRising([1, 2, 3]), [2, 2, 2]);
    deepEqual(neverRising([9, 2, 4, 6, 1]), [9, 4, 4, 4, 1]);
    deepEqual(neverRising([3, 4, 8]), [5, 5, 5]);
  });
});
