import { describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { Registry } from "prom-client";
import { registerProcessMetrics } from "./process_metrics.ts";

describe("registerProcessMetrics()", () => {
  const registry = new Registry();
  registerProcessMetrics(registry, 1_700_000_000);
  const value = async (name: string) => Number(new RegExp(`^${name} (.*)$`, "m").exec(await registry.metrics())![1]);

  it("gives the start that it was told", async () => {
    equal(await value("process_start_time_seconds"), 1_700_000_000);
  });

  it("counts CPU time, which only grows", async () => {
    const before = await value("process_cpu_seconds_total");
    let sum = 0;
    const usage = () => Deno.memoryUsage().rss; // work that shows
    for (let i = 0; i < 2000; i++) sum += usage();
    const after = await value("process_cpu_seconds_total");
    ok(before > 0 && after > before && sum > 0, `${before} s, then ${after} s`);
  });

  it("follows memory and open files", async () => {
    const before = await value("process_open_fds");
    using file = await Deno.open(new URL(import.meta.url));
    equal(await value("process_open_fds"), before + 1);
    ok((await file.stat()).size > 0);
    ok(await value("process_resident_memory_bytes") > 2 ** 20);
  });
});
