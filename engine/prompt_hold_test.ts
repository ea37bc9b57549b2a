import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { type HoldOptions, holdsPrompts, stepsOfPrompt } from "./prompt_hold.ts";

/** Three more tokens take 30 ms without prompts, and 120 with a chunk of them in the first step. */
const held = (leftMs: number, options: Partial<HoldOptions> = {}) => {
  const decoding = [{ newTokens: 3, leftMs }];
  return holdsPrompts({ decoding, prompts: [], mixedMs: 100, decodeMs: 10, safe: 1, likely: 1, ...options });
};

describe("holdsPrompts()", () => {
  it("holds prompts back for an answer that is in time without them alone", () => {
    equal(held(30), true);
    equal(held(119), true);
  });

  it("lets prompts come where the answer has time for them, or is late without them too", () => {
    equal(held(120), false);
    equal(held(29), false);
    equal(held(Infinity), false);
  });

  it("risks nothing that is only likely to be kept, and gives nothing up that is likely to be", () => {
    equal(held(120, { safe: 1.1 }), true);
    equal(held(30, { likely: 1.1 }), false);
  });

  it("holds them back for one answer among several", () => {
    const one = { newTokens: 3, leftMs: 50 };
    equal(held(0, { decoding: [{ newTokens: 3, leftMs: Infinity }, one] }), true);
    equal(held(0, { decoding: [] }), false);
  });

  it("lets them come where as many of their own answers would be late for it", () => {
    // An answer of two tokens takes 110 ms from its prompt on, 140 if that is held back for 30.
    const prompt = (leftMs: number) => ({ prompts: [{ newTokens: 2, leftMs, firstLeftMs: Infinity, steps: 1 }] });
    equal(held(50, prompt(140)), true);
    equal(held(50, prompt(139)), false);
    equal(held(50, prompt(109)), true, "it is late anyway");
    const two = [{ newTokens: 3, leftMs: 50 }, { newTokens: 2, leftMs: 50 }];
    equal(held(0, { decoding: two, ...prompt(139) }), true);
  });

  it("lets them come where their first tokens would be late for it", () => {
    // The first token takes 100 ms, 130 if the prompt is held back for 30.
    const prompt = (firstLeftMs: number) => ({ prompts: [{ newTokens: 2, leftMs: Infinity, firstLeftMs, steps: 1 }] });
    equal(held(50, prompt(130)), true);
    equal(held(50, prompt(129)), false);
    equal(held(50, prompt(99)), true, "it is late anyway");
  });

  it("knows how many steps a prompt takes", () => {
    // Four take 400 ms, 430 if the prompt is held back for 30; the second token 10 more.
    const prompt = (leftMs: number, firstLeftMs: number) => ({
      prompts: [{ newTokens: 2, leftMs, firstLeftMs, steps: 4 }],
    });
    deepEqual([430, 429, 400, 399].map((ms) => held(50, prompt(Infinity, ms))), [true, false, false, true]);
    deepEqual([440, 439, 410, 409].map((ms) => held(50, prompt(ms, Infinity))), [true, false, false, true]);
  });
});

describe("stepsOfPrompt()", () => {
  it("counts the next step, and one for every chunk that it leaves", () => {
    const steps = (promptTokens: number, rows: number) => stepsOfPrompt({ promptTokens, rows, prefillChunk: 100 });
    deepEqual([steps(7, 7), steps(100, 100), steps(101, 100), steps(400, 100), steps(400, 30)], [1, 1, 2, 4, 5]);
  });
});
