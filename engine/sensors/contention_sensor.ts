import { Gauge, type Registry } from "prom-client";

/** Intervals that the last reading is believed for. */
const BELIEVED_INTERVALS = 3;

/**
 * Share of the machine's CPU time that everything but this service took in the last 20 s: what is neither idle, nor
 * waiting for a disk, nor ours. Our part is taken off inside the query, so that all of it comes from the same server and
 * the same time. Where Prometheus does not scrape this service, or not node_exporter, the query has no value, and the
 * sensor says so.
 */
export const OTHER_CPU_SHARE = '1 - (sum(rate(node_cpu_seconds_total{mode=~"idle|iowait"}[20s])) ' +
  '+ sum(rate(process_cpu_seconds_total{job="espalier"}[20s]))) / count(node_cpu_seconds_total{mode="idle"})';

export interface ContentionSensorOptions {
  /** Gives a share from 0 to 1, or fails with the reason in words. */
  readonly ask: () => Promise<number>;
  readonly intervalMs: number;
  readonly registry: Registry;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
  /** Takes a line whenever the sensor begins or ceases to be believed. */
  readonly say: (line: string) => void;
}

/**
 * What other workloads take of the machine, as somebody else measures it (a Prometheus server). A reading holds for three
 * intervals; if none has succeeded by then, other workloads count as none, which the series `espalier_load_sensor_fresh`
 * and a line of the log tell.
 */
export class ContentionSensor {
  readonly #options: ContentionSensorOptions;
  #last: { readonly ratio: number; readonly atMs: number } | null = null;
  /** What was said last; null before the first reading. */
  #saidFresh: boolean | null = null;

  /** Registers its series. @throws {Error} If the registry has them already. */
  constructor(options: ContentionSensorOptions) {
    this.#options = options;
    const sensor = (): number | null => this.ratio;
    const registers = [options.registry];
    new Gauge({
      name: "espalier_load_contention_ratio",
      help: "Share of the machine that other workloads take; absent while the sensor is not fresh",
      registers,
      collect() {
        const ratio = sensor();
        if (ratio === null) this.remove();
        else this.set(ratio);
      },
    });
    new Gauge({
      name: "espalier_load_sensor_fresh",
      help: "1 while the sensor of other workloads is believed, else 0",
      registers,
      collect() {
        this.set(sensor() === null ? 0 : 1);
      },
    });
  }

  /** From 0 to 1; null if nothing is known. */
  get ratio(): number | null {
    const { now, intervalMs } = this.#options;
    if (this.#last === null || now() - this.#last.atMs > BELIEVED_INTERVALS * intervalMs) return null;
    return this.#last.ratio;
  }

  /** Takes one reading. A failure is told in the log, once. */
  async read(): Promise<void> {
    const { ask, now, say } = this.#options;
    try {
      this.#last = { ratio: await ask(), atMs: now() };
      if (this.#saidFresh !== true) say("Load sensor: it answers, and other workloads count");
      this.#saidFresh = true;
    } catch (error) {
      if (this.ratio !== null || this.#saidFresh === false) return;
      const reason = error instanceof Error ? error.message : String(error);
      say(`Load sensor: ${reason}; until it answers, other workloads count as none`);
      this.#saidFresh = false;
    }
  }

  /** Reads at once and then once an interval. @returns Ends that. */
  start(): () => void {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let stopped = false;
    const next = async () => {
      await this.read();
      if (!stopped) timer = setTimeout(next, this.#options.intervalMs);
    };
    void next();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }
}
