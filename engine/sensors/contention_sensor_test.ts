import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match } from "node:assert/strict";
import { Registry } from "prom-client";
import { ContentionSensor } from "./contention_sensor.ts";

/** A sensor on a clock that stands until it is set, and what it is to read next: an `Error` fails. */
function toySensor() {
  const world = { ms: 0, next: 0.5 as number | Error, said: [] as string[], asked: 0 };
  const registry = new Registry();
  const sensor = new ContentionSensor({
    ask: () => {
      world.asked++;
      return world.next instanceof Error ? Promise.reject(world.next) : Promise.resolve(world.next);
    },
    intervalMs: 1000,
    registry,
    now: () => world.ms,
    say: (line) => void world.said.push(line),
  });
  return { sensor, world, scrape: () => registry.metrics() };
}

describe("ContentionSensor", () => {
  it("knows nothing before its first reading, and its series say so", async () => {
    const { sensor, scrape } = toySensor();
    equal(sensor.ratio, null);
    const text = await scrape();
    match(text, /^espalier_load_sensor_fresh 0$/m);
    equal(/^espalier_load_contention_ratio /m.test(text), false);
  });

  it("gives what it read last", async () => {
    const { sensor, world, scrape } = toySensor();
    await sensor.read();
    equal(sensor.ratio, 0.5);
    world.next = 0.125;
    await sensor.read();
    match(await scrape(), /^espalier_load_contention_ratio 0\.125$[^]*^espalier_load_sensor_fresh 1$/m);
    equal(world.said.length, 1);
  });

  it("believes the last reading for three intervals, then none, and says so once", async () => {
    const { sensor, world, scrape } = toySensor();
    await sensor.read();
    world.next = new Error("it cannot be reached");
    for (const [ms, ratio] of [[1000, 0.5], [2000, 0.5], [3000, 0.5], [3001, null], [4000, null]] as const) {
      world.ms = ms;
      await sensor.read();
      equal(sensor.ratio, ratio, `after ${ms} ms`);
    }
    deepEqual(world.said.slice(1), [
      "Load sensor: it cannot be reached; until it answers, other workloads count as none",
    ]);
    const text = await scrape();
    match(text, /^espalier_load_sensor_fresh 0$/m);
    equal(/^espalier_load_contention_ratio /m.test(text), false);

    world.next = 0.25;
    await sensor.read();
    equal(sensor.ratio, 0.25);
    equal(world.said.length, 3);
    match(await scrape(), /^espalier_load_contention_ratio 0\.25$/m);
  });

  it("says at its first reading that there is nothing to believe", async () => {
    const { sensor, world } = toySensor();
    world.next = new Error("the query gave 0 series, and must give one");
    await sensor.read();
    await sensor.read();
    equal(world.said.length, 1);
    match(world.said[0]!, /gave 0 series/);
  });

  it("does not ask again once it is stopped", async () => {
    const { sensor, world } = toySensor();
    sensor.start()();
    await sensor.read(); // the other reading has ended before this one
    equal(world.asked, 2);
  });
});
