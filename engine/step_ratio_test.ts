import { equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { StepRatio } from "./step_ratio.ts";
import { Draws } from "./testing/virtual_service.ts";

const near = (found: number, expected: number, share: number) =>
  ok(Math.abs(found / expected - 1) < share, `${found}, not ${expected}`);

describe("StepRatio", () => {
  it("is 1 before anything was measured", () => {
    equal(new StepRatio().of("decode", "0"), 1);
  });

  it("follows steps that are suddenly twice as slow within 25 of them, for all phases and rates", () => {
    const ratio = new StepRatio();
    for (let i = 0; i < 50; i++) ratio.observe("decode", "0", 1, 1);
    for (let i = 0; i < 25; i++) ratio.observe("decode", "0", 2, 1);
    near(ratio.of("decode", "0"), 2, 0.05);
    ok(ratio.of("prefill", "0.35") > 1.5);
  });

  it("stays near the middle of noise, and forgives a step of a hundred times or three of twice in a row", () => {
    const ratio = new StepRatio();
    const draws = new Draws(3);
    for (let i = 0; i < 300; i++) ratio.observe("decode", "0", Math.exp(0.1 * draws.normal()), 1);
    const before = ratio.of("decode", "0");
    near(before, 1, 0.05);
    ratio.observe("decode", "0", 100, 1);
    near(ratio.of("decode", "0"), before, 0.03);
    for (let i = 0; i < 3; i++) ratio.observe("decode", "0", 2, 1);
    near(ratio.of("decode", "0"), before, 0.12);
  });

  it("learns what phases and rates differ", () => {
    const ratio = new StepRatio();
    for (let i = 0; i < 400; i++) {
      ratio.observe("decode", "0", 1.2, 1);
      ratio.observe("prefill", "0", 0.8, 1);
    }
    near(ratio.of("decode", "0"), 1.2, 0.06);
    near(ratio.of("prefill", "0"), 0.8, 0.06);
  });

  it("ignores times that are none", () => {
    const ratio = new StepRatio();
    ratio.observe("decode", "0", 0, 1);
    ratio.observe("decode", "0", NaN, 1);
    ratio.observe("decode", "0", 1, 0);
    equal(ratio.of("decode", "0"), 1);
  });
});
