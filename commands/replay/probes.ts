import type { ServiceClient } from "./client.ts";

/** How long the documents that watch a service took, in milliseconds; infinite where there was no good answer. */
export interface ProbeTimes {
  readonly metrics: readonly number[];
  readonly readyz: readonly number[];
}

/** Ten times a second. */
const INTERVAL_MS = 100;

/** Asks a service for its metrics and its readiness all the time, whether it has answered the last time or not. */
export class Probes {
  readonly #metrics: Promise<number>[] = [];
  readonly #readyz: Promise<number>[] = [];
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(client: ServiceClient) {
    this.#timer = setInterval(() => {
      this.#metrics.push(client.timed("/metrics"));
      this.#readyz.push(client.timed("/readyz"));
    }, INTERVAL_MS);
  }

  /** Ends the asking and waits for the last answers. */
  async stop(): Promise<ProbeTimes> {
    clearInterval(this.#timer);
    return { metrics: await Promise.all(this.#metrics), readyz: await Promise.all(this.#readyz) };
  }
}
