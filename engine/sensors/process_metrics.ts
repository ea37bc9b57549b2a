import { cpuUsage } from "node:process";
import { Counter, Gauge, type Registry } from "prom-client";

/**
 * Registers what Prometheus expects of any process; prom-client's own collection does not work on Deno throughout. Open
 * files are there only where Deno may read `/proc` (`--allow-all`).
 *
 * @see https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
 */
export function registerProcessMetrics(registry: Registry, startedSeconds: number): void {
  const registers = [registry];
  new Gauge({ name: "process_start_time_seconds", help: "Start, since 1970", registers }).set(startedSeconds);
  new Counter({
    name: "process_cpu_seconds_total",
    help: "CPU time of all threads",
    registers,
    collect() {
      const { user, system } = cpuUsage();
      this.reset();
      this.inc((user + system) / 1e6);
    },
  });
  new Gauge({
    name: "process_resident_memory_bytes",
    help: "Memory in use, mapped weights included",
    registers,
    collect() {
      this.set(Deno.memoryUsage().rss);
    },
  });
  new Gauge({
    name: "process_heap_bytes",
    help: "JavaScript objects, garbage that has not been collected yet included",
    registers,
    collect() {
      this.set(Deno.memoryUsage().heapUsed);
    },
  });
  if (openFiles() === null) return;
  new Gauge({
    name: "process_open_fds",
    help: "Open files and sockets",
    registers,
    collect() {
      this.set(openFiles() ?? 0);
    },
  });
}

/** Null where it is not told. */
function openFiles(): number | null {
  try {
    return [...Deno.readDirSync("/proc/self/fd")].length - 1; // the listing itself is one
  } catch {
    return null;
  }
}
