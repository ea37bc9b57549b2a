import { equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Histogram } from "prom-client";
import { RecentMean } from "./recent_mean.ts";

const histogram = () => new Histogram({ name: "lengths", help: "Lengths", registers: [] });

describe("RecentMean", () => {
  it("is 0 before anything has come, and what has come then", () => {
    const [lengths, mean] = [histogram(), new RecentMean()];
    equal(mean.read(lengths), 0);
    lengths.observe(7);
    equal(mean.read(lengths), 7);
    equal(mean.read(lengths), 7);
  });

  it("takes values that came between two readings as if each had been read", () => {
    const [lengths, each, seldom] = [histogram(), new RecentMean(), new RecentMean()];
    for (const value of [3, 8]) {
      for (let i = 0; i < 5; i++) {
        lengths.observe(value);
        each.read(lengths);
      }
      seldom.read(lengths);
    }
    const mean = seldom.read(lengths);
    ok(Math.abs(mean - each.read(lengths)) < 1e-9, `${mean}`);
    ok(mean > 5.5 && mean < 5.6, `${mean}: those that came later count a little more`);
  });

  it("forgets: after some hundred values it is what they are, however many came before", () => {
    const [lengths, mean] = [histogram(), new RecentMean()];
    for (let i = 0; i < 10_000; i++) lengths.observe(10);
    mean.read(lengths);
    for (let i = 0; i < 500; i++) {
      lengths.observe(100);
      mean.read(lengths);
    }
    ok(mean.read(lengths) > 99);
  });
});
