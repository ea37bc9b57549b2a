import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { scheduleStep } from "./scheduler.ts";

const parts = (running: [promptLength: number, prefilled: number][], chunk: number) =>
  scheduleStep(running.map(([promptLength, prefilled]) => ({ promptLength, prefilled })), chunk)
    .map(({ sequence, phase, rows }) => `${sequence.promptLength} ${phase} ${rows}`);

describe("scheduleStep()", () => {
  it("takes a row of everyone who decodes and one chunk of the first prompt", () => {
    deepEqual(parts([[5, 5], [300, 128], [400, 0], [7, 7]], 128), ["5 decode 1", "300 prefill 128", "7 decode 1"]);
  });

  it("fills a chunk with the prompts that come next", () => {
    deepEqual(parts([[10, 0], [20, 4], [30, 0]], 32), ["10 prefill 10", "20 prefill 16", "30 prefill 6"]);
  });

  it("takes nothing of nobody", () => deepEqual(parts([], 8), []));
});
