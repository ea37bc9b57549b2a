import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { forecastSchedule, type Schedule, type Work } from "./schedule_forecast.ts";

const work = (promptTokens: number, newTokens: number, context = 0, instantMs = 0, lastTokenMs = Infinity): Work => (
  { level: 0, promptTokens, newTokens, context, instantMs, limits: { firstTokenMs: Infinity, lastTokenMs } }
);
/** A step takes 10 ms, and 1 ms for every row. */
const forecast = (schedule: Partial<Schedule>) =>
  forecastSchedule({
    running: [],
    waiting: [],
    slots: 2,
    prefillChunk: 4,
    busyMs: 0,
    hold: null,
    stepMs: (parts) => 10 + parts.reduce((rows, part) => rows + part.rows, 0),
    ...schedule,
  });
const times = (finishes: ReturnType<typeof forecastSchedule>["waiting"]) =>
  finishes.map(({ startMs, firstTokenMs, lastTokenMs }) => [startMs, firstTokenMs, lastTokenMs]);

describe("forecastSchedule()", () => {
  it("takes a prompt chunk by chunk, then a token a step", () => {
    // 14 + 12 for the prompt of 6, then two steps of 11.
    deepEqual(times(forecast({ waiting: [work(6, 3)] }).waiting), [[0, 26, 48]]);
  });

  it("decodes beside a prompt, and waits for a slot", () => {
    const { running, waiting } = forecast({ running: [work(0, 2, 5)], waiting: [work(4, 1), work(1, 1)] });
    // One step of 4 prompt rows and a decoded one, then the second prompt beside the last token.
    equal(running[0]!.lastTokenMs, 15 + 12);
    deepEqual(times(waiting), [[0, 15, 15], [15, 27, 27]]);
  });

  it("takes the most urgent prompt first, whoever came first", () => {
    const { running, waiting } = forecast({ running: [work(6, 1, 0, 900)], waiting: [work(2, 1, 0, 300)] });
    // 2 rows of the urgent prompt beside 2 of the other, whose 4 more take another step.
    deepEqual([waiting[0]!.lastTokenMs, running[0]!.lastTokenMs], [14, 28]);
  });

  it("holds prompts back for an answer that they would make late, until it has ended", () => {
    const hold = { safe: 1, likely: 1 };
    const two = (lastTokenMs: number) => forecast({ running: [work(0, 3, 5, 0, lastTokenMs), work(6, 1, 0, 1)], hold });
    // With both chunks beside it 15 + 13 + 11, with none 3 × 11; then the chunks by themselves.
    deepEqual(two(39).running.map(({ lastTokenMs }) => lastTokenMs), [39, 28]);
    deepEqual(two(33).running.map(({ lastTokenMs }) => lastTokenMs), [33, 33 + 14 + 12]);
    // The first chunk costs it nothing yet, the second would.
    deepEqual(two(38).running.map(({ lastTokenMs }) => lastTokenMs), [37, 37 + 12]);
    deepEqual(two(32).running.map(({ lastTokenMs }) => lastTokenMs), [39, 28]);
  });

  it("lets a prompt come whose answer would be late if it were held back, of however many chunks it is", () => {
    const firstTokenMs = (promptTokens: number, due: Partial<Work["limits"]>) => {
      const limits = { firstTokenMs: Infinity, lastTokenMs: Infinity, ...due };
      const { running } = forecast({
        ...{ prefillChunk: 100, hold: { safe: 1, likely: 1 } },
        // Three more tokens take 33 ms without prompts, and are due before they could come with one.
        running: [work(0, 3, 5, 0, 50), { ...work(promptTokens, 1, 0, 1), limits }],
      });
      return running[1]!.firstTokenMs;
    };
    deepEqual([firstTokenMs(100, {}), firstTokenMs(400, {})], [33 + 110, 33 + 4 * 110]);
    deepEqual([firstTokenMs(100, { firstTokenMs: 120 }), firstTokenMs(100, { lastTokenMs: 120 })], [111, 111]);
    deepEqual([firstTokenMs(400, { firstTokenMs: 450 }), firstTokenMs(400, { lastTokenMs: 450 })], [443, 443]);
  });

  it("begins when the present step ends", () => {
    deepEqual(times(forecast({ waiting: [work(1, 1)], busyMs: 7 }).waiting), [[7, 18, 18]]);
  });

  it("takes many steps at once as it would one by one", () => {
    const stepMs: Schedule["stepMs"] = (parts) => parts.reduce((ms, { context }) => ms + 1 + 0.1 * context, 0);
    const [whole] = forecast({ running: [work(0, 40, 10)], stepMs }).running;
    let ms = 0;
    for (let context = 10; context < 50; context++) ms += 1 + 0.1 * context;
    equal(Math.round(whole!.lastTokenMs * 1e6), Math.round(ms * 1e6));
  });
});
