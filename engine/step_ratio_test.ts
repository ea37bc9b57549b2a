import { equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { StepRatio } from "./step_ratio.ts";
import { Draws } from "./testing/draws.ts";

const near = (found: number, expected: number, share: number) =>
  ok(Math.abs(found / expected - 1) < share, `${found}, not ${expected}`);

const alone = { phase: "decode", sequences: 1 } as const;
const together = { phase: "decode", sequences: 4 } as const;
const prompts = { phase: "prefill", sequences: 2 } as const;

describe("StepRatio", () => {
  it("is 1 before anything was measured", () => {
    equal(new StepRatio().of(alone), 1);
  });

  it("follows steps that are suddenly twice as slow within 25 of them, for all kinds", () => {
    const ratio = new StepRatio();
    for (let i = 0; i < 50; i++) ratio.observe(alone, 1, 1);
    for (let i = 0; i < 25; i++) ratio.observe(alone, 2, 1);
    near(ratio.of(alone), 2, 0.05);
    ok(ratio.of(prompts) > 1.5);
  });

  it("stays near the middle of noise, and forgives a step of a hundred times or three of twice in a row", () => {
    const ratio = new StepRatio();
    const draws = new Draws(3);
    for (let i = 0; i < 300; i++) ratio.observe(alone, Math.exp(0.1 * draws.normal()), 1);
    const before = ratio.of(alone);
    near(before, 1, 0.05);
    ratio.observe(alone, 100, 1);
    near(ratio.of(alone), before, 0.03);
    for (let i = 0; i < 3; i++) ratio.observe(alone, 2, 1);
    near(ratio.of(alone), before, 0.12);
  });

  it("learns what phases differ, and steps that decode one sequence from those that decode four", () => {
    const ratio = new StepRatio();
    for (let i = 0; i < 400; i++) {
      ratio.observe(alone, 1.45, 1);
      ratio.observe(together, 1.1, 1);
      ratio.observe(prompts, 0.9, 1);
    }
    near(ratio.of(alone), 1.45, 0.04);
    near(ratio.of(together), 1.1, 0.04);
    near(ratio.of(prompts), 0.9, 0.04);
  });

  it("takes a step with prompts for the same, however many sequences share it", () => {
    const ratio = new StepRatio();
    for (let i = 0; i < 100; i++) ratio.observe(prompts, 1.3, 1);
    equal(ratio.of({ ...prompts, sequences: 4 }), ratio.of(prompts));
  });

  it("ignores times that are none", () => {
    const ratio = new StepRatio();
    ratio.observe(alone, 0, 1);
    ratio.observe(alone, NaN, 1);
    ratio.observe(alone, 1, 0);
    equal(ratio.of(alone), 1);
  });
});
