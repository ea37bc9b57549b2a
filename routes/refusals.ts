import type { ErrorAnswer } from "./errors.ts";
import type { Services } from "./services.ts";
import { shortened } from "./shortened.ts";

/** What was refused, as far as it is known. */
export interface Refusal extends Pick<ErrorAnswer, "status" | "outcome"> {
  readonly message: string;
  readonly method: string | null;
  /** Without its query, where callers put secrets. */
  readonly path: string | null;
}

/** Time in which no more than one line of each status is logged. */
const QUIET_MS = 60_000;

/** UTF-16 code units of a text of the caller's that are logged. */
const MOST_LOGGED = 200;

/**
 * Counts and logs what is refused outside of requests for answers, which have records: wrong paths, methods, hosts and
 * keys, and what is no HTTP. Whoever scans the service can send thousands a second, so the log has one line of each
 * status a minute, which says how many had none.
 */
export class Refusals {
  readonly #services: Pick<Services, "metrics" | "log" | "now">;
  readonly #logged = new Map<number, { atMs: number; unlogged: number }>();

  constructor(services: Pick<Services, "metrics" | "log" | "now">) {
    this.#services = services;
  }

  note({ status, outcome, message, method, path }: Refusal): void {
    const { metrics, log, now } = this.#services;
    metrics.requests.inc({ outcome, code: String(status) });
    if (outcome === "error") return; // faults of ours are logged whole, where they are explained
    const last = this.#logged.get(status);
    const nowMs = now();
    if (last !== undefined && nowMs - last.atMs < QUIET_MS) return void last.unlogged++;
    this.#logged.set(status, { atMs: nowMs, unlogged: 0 });
    const logged = (text: string | null) => text && shortened(text, MOST_LOGGED);
    const texts = { message: logged(message), method: logged(method), path: logged(path) };
    log({ event: "refused", code: status, ...texts, unlogged: last?.unlogged ?? 0 });
  }
}
