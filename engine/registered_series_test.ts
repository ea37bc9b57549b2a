import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Counter, Gauge, Histogram } from "prom-client";
import { histogramSeries, plainSeries, plainValue } from "./registered_series.ts";

const options = { help: "test", registers: [] };

describe("registered series", () => {
  it("are what prom-client gives later", async () => {
    const counter = new Counter({ ...options, name: "c", labelNames: ["a"] });
    counter.inc({ a: "x" }, 2);
    counter.inc({ a: "y" });
    const read = plainSeries(counter).map(({ labels, value }) => ({ labels, value }));
    deepEqual(read, (await counter.get()).values.map(({ labels, value }) => ({ labels, value })));

    const histogram = new Histogram({ ...options, name: "h", buckets: [1, 2], labelNames: ["a"] });
    for (const value of [0.5, 1.5, 1.5, 9]) histogram.observe({ a: "x" }, value);
    const [series] = histogramSeries(histogram);
    const { values } = await histogram.get();
    const later = (name: string) => values.find(({ metricName }) => metricName === name)!.value;
    deepEqual([series!.sum, series!.count, series!.labels], [later("h_sum"), later("h_count"), { a: "x" }]);
    deepEqual(series!.bucketValues, { 1: 1, 2: 2 });
  });

  it("of a gauge that collects are collected", () => {
    let value = 1;
    const gauge = new Gauge({
      ...options,
      name: "g",
      collect() {
        this.set(value);
      },
    });
    equal(plainValue(gauge), 1);
    value = 7;
    equal(plainValue(gauge), 7);
  });

  it("that are absent count as 0", () => {
    equal(plainValue(new Gauge({ ...options, name: "g", labelNames: ["a"] })), 0);
  });
});
