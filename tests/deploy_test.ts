import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { Registry } from "prom-client";
import {
  ContentionSensor,
  createMetrics,
  type DeviceSensor,
  registerDeviceMetrics,
  registerProcessMetrics,
} from "../engine/mod.ts";

const DEPLOY = fileURLToPath(new URL("../deploy/", import.meta.url));

/** Labels that Prometheus adds, or that parts of a histogram have. */
const ADDED = ["instance", "job", "node", "le", "__name__"];

/** The names that each series can have, with its labels. */
function allSeries(): Map<string, readonly string[]> {
  const registry = new Registry();
  createMetrics(registry);
  registerProcessMetrics(registry, 0);
  new ContentionSensor({ ask: () => Promise.resolve(0), intervalMs: 1, registry, now: () => 0, say: () => {} });
  const quantities: DeviceSensor["quantity"][] = ["temperature_celsius", "power_watts", "utilization_ratio"];
  registerDeviceMetrics(
    registry,
    quantities.map((quantity) => ({ quantity, name: quantity, read: () => Promise.resolve(0) })),
  );
  const series = new Map<string, readonly string[]>();
  for (const metric of registry.getMetricsAsArray()) {
    const { name, type, labelNames } = metric as unknown as { name: string; type: string; labelNames: string[] };
    const names = String(type) === "histogram" ? ["bucket", "sum", "count"].map((part) => `${name}_${part}`) : [name];
    for (const each of names) series.set(each, labelNames);
  }
  return series;
}

async function filesOf(folder: string): Promise<string[]> {
  const files: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    if (isDirectory) files.push(...await filesOf(`${folder}${name}/`));
    else if (/\.(ya?ml|json)$/.test(name)) files.push(`${folder}${name}`);
  }
  return files.sort();
}

describe("What watches the service", () => {
  it("names only series that the service has, by labels that they have", async () => {
    const series = allSeries();
    const wrong: string[] = [];
    const named = new Set<string>();
    for (const file of await filesOf(DEPLOY)) {
      const text = (await Deno.readTextFile(file)).replaceAll('\\"', '"');
      for (const [, name, matchers] of text.matchAll(/\b((?:espalier|process)_[a-z0-9_]+)(?:\{([^}]*)\})?/g)) {
        const labels = series.get(name!);
        if (labels === undefined) wrong.push(`${file.slice(DEPLOY.length)}: ${name}`);
        named.add(name!);
        for (const [, label] of matchers?.matchAll(/(\w+) *[=!]/g) ?? []) {
          if (![...labels ?? [], ...ADDED].includes(label!)) {
            wrong.push(`${file.slice(DEPLOY.length)}: ${name} by ${label}`);
          }
        }
      }
    }
    ok(named.size > 25, `only ${named.size} series are named`);
    deepEqual(wrong, []);
  });
});
