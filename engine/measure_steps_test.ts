import { deepEqual, equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { measureSteps } from "./measure_steps.ts";
import { StepCosts } from "./step_costs.ts";
import { ToyRunner } from "./testing/toy_runner.ts";

const RATES = [0, 0.1, 0.4];

/**
 * A step takes 8 ms less the level, a quarter for every row, and a hundredth for every row and token of context; every
 * `slowEvery`th takes half as long again.
 */
async function measured(
  { slots = 2, maxTokens = 64, prefillChunk = 8, budgetMs = 1e6, perLevel = [8, 7, 6], slowEvery, perContext }: {
    slots?: number;
    maxTokens?: number;
    prefillChunk?: number;
    budgetMs?: number;
    perLevel?: readonly number[];
    slowEvery?: number;
    perContext?: readonly number[];
  },
) {
  let [clock, steps] = [0, 0];
  const runner = new ToyRunner({
    slots,
    maxTokens,
    onStep: (entries) => {
      let ms = perLevel[Math.min(...entries.map(({ sequence }) => sequence.level))]!;
      for (const { sequence, tokens } of entries) {
        ms += tokens.length * (0.25 + (perContext?.[sequence.level] ?? 0.01) * sequence.length);
      }
      clock += slowEvery !== undefined && ++steps % slowEvery === 0 ? 1.5 * ms : ms;
    },
  });
  const table = await measureSteps(runner, { pruningRates: RATES, prefillChunk, now: () => clock, budgetMs });
  return { table, runner };
}

/** Decode steps are measured with up to five tokens of context. */
const near = (found: number, expected: number) => ok(Math.abs(found - expected) < 0.11, `${found}, not ${expected}`);

describe("measureSteps()", () => {
  it("finds what batches, chunks and contexts cost, and frees all slots", async () => {
    const { table, runner } = await measured({});
    deepEqual(table.rows, [1, 2, 8]);
    equal(runner.freeSlots, 2);
    const costs = new StepCosts(table);
    near(costs.stepMs([{ level: 0, phase: "decode", rows: 1, context: 0 }]), 8.25);
    near(costs.stepMs([{ level: 1, phase: "decode", rows: 1, context: 20 }]), 7.25 + 0.2);
    near(costs.stepMs([{ level: 2, phase: "prefill", rows: 8, context: 16 }]), 6 + 2 + 8 * 16 * 0.01);
    near(
      costs.stepMs([0, 2].map((level) => ({ level, phase: "decode", rows: 1, context: 0 }))),
      6 + 0.5 + (8 - 6),
    );
  });

  it("measures sizes of several rows at the first and last level only when there is little time", async () => {
    const { table, runner } = await measured({ budgetMs: 0 });
    const middle = runner.steps.filter((step) => step[0]!.startsWith("1:"));
    ok(middle.length > 0 && middle.every((step) => step.length === 1 && step[0] === "1:1"));
    // On the line between the ends, a quarter of the way.
    near(table.stepMs[1]![2]!, 10 - 2 * 0.25);
  });

  it("gives levels their mean where a narrower one was slower", async () => {
    const { table } = await measured({ perLevel: [8, 4, 6] });
    near(table.stepMs[1]![0]!, 5.25);
    near(table.stepMs[2]![0]!, 5.25);
  });

  it("finds what a context costs in decoding though every fourth step takes half as long again", async () => {
    const { table: { decodeContextMs } } = await measured({ maxTokens: 128, slowEvery: 4 });
    for (const ms of decodeContextMs) ok(Math.abs(ms - 0.01) < 0.001, `${ms}, not 0.01`);
  });

  it("gives the ends their mean where the context of the narrowest level was slower", async () => {
    const { table: { decodeContextMs } } = await measured({ maxTokens: 128, perContext: [0.01, 0, 0.03] });
    for (const ms of decodeContextMs) ok(Math.abs(ms - 0.02) < 1e-9, `${ms}, not 0.02`);
  });

  it("keeps to the tokens that a sequence can hold", async () => {
    const { table } = await measured({ maxTokens: 3, prefillChunk: 32 });
    deepEqual([table.rows, table.decodeContextMs], [[1, 2, 3], [0, 0, 0]]);
  });

  it("does with one level and one slot", async () => {
    let clock = 0;
    const runner = new ToyRunner({ slots: 1, onStep: () => void (clock += 5) });
    const table = await measureSteps(runner, { pruningRates: [0], prefillChunk: 4, now: () => clock, budgetMs: 0 });
    deepEqual(table, { rows: [1, 4], stepMs: [[5, 5]], decodeContextMs: [0], prefillContextMs: [0] });
  });
});
