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

  it("believes in what is assumed until as much has come", () => {
    const [lengths, mean] = [histogram(), new RecentMean({ value: 1, count: 4 })];
    equal(mean.read(lengths), 1);
    for (let i = 0; i < 4; i++) lengths.observe(0);
    ok(Math.abs(mean.read(lengths) - 0.5) < 0.02);
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
