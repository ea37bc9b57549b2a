import type { Registry } from "prom-client";
import { ContentionSensor, findDeviceSensors, queryPrometheus, registerDeviceMetrics } from "../../engine/mod.ts";
import { say } from "./say.ts";
import type { Settings } from "./settings.ts";

/** A Prometheus server that takes longer is taken for one that does not answer. */
const PROMETHEUS_MS = 2000;

/** Registers the sensors of the machine, and says which there are. */
export async function watchDevice(registry: Registry, sysfs: string): Promise<void> {
  try {
    const sensors = await findDeviceSensors(sysfs);
    registerDeviceMetrics(registry, sensors);
    say(`device sensors: ${sensors.map(({ name }) => name).join(", ") || `none in ${sysfs}`}`);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    say(
      `device sensors: none, for Deno reads ${sysfs} only with --allow-all; a mount elsewhere it reads like any folder ` +
        "(sudo mount --bind /sys /mnt, then --sysfs /mnt)",
    );
  }
}

/** Begins to ask a Prometheus server what other workloads take, if there is one. The engine reads it in the registry. */
export function watchContention(
  registry: Registry,
  { prometheusUrl: url, prometheusQuery: query, prometheusSeconds }: Pick<
    Settings,
    "prometheusUrl" | "prometheusQuery" | "prometheusSeconds"
  >,
  now: () => number,
): void {
  if (url === undefined) return;
  const intervalMs = 1000 * prometheusSeconds;
  const ask = () => queryPrometheus({ url, query, timeoutMs: Math.min(intervalMs, PROMETHEUS_MS) });
  new ContentionSensor({ ask, intervalMs, registry, now, say }).start();
}
