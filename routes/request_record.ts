import type { MiddlewareHandler } from "hono";
import type { FinishReason, GenerationEnd, RateChoice, TextEvent } from "../engine/mod.ts";
import type { FailureOutcome } from "./errors.ts";
import type { Services } from "./services.ts";

/** What is known of one request. It ends once, with a line in the log and a count. */
export class RequestRecord {
  readonly id: string;
  readonly arrivedMs: number;
  /** Whether its answer is a stream, which goes on after the handler. */
  streams = false;
  promptTokens: number | null = null;
  /** The prompt as it was asked: text, token ids or messages. It is logged only where the service was told to. */
  prompt: unknown = null;
  #completionTokens = 0;
  #choice: RateChoice | null = null;
  #end: GenerationEnd | null = null;
  /** Until it is known, the fault is ours. */
  outcome: FinishReason | FailureOutcome = "error";
  readonly #services: Pick<Services, "engine" | "metrics" | "log" | "logPrompts" | "now">;
  readonly #route: string;

  constructor(services: Pick<Services, "engine" | "metrics" | "log" | "logPrompts" | "now" | "newId">, route: string) {
    this.#services = services;
    this.#route = route;
    this.id = services.newId();
    this.arrivedMs = services.now();
  }

  /** Notes what has come of the request. */
  note(event: TextEvent): void {
    if (event.kind === "start") this.#choice = event.choice;
    if (event.kind === "token") this.#completionTokens++;
    if (event.kind === "end") [this.#end, this.outcome] = [event, event.finishReason];
  }

  /** Notes that there will be no full answer. What has begun cannot be refused any more, such as when the service stops. */
  fail(outcome: FailureOutcome): void {
    this.outcome = outcome === "rejected" && this.#choice !== null ? "cancelled" : outcome;
  }

  /** @param code The HTTP status that the caller got. */
  finish(code: number): void {
    const { engine, metrics, log, logPrompts, now } = this.#services;
    const [outcome, choice, end] = [this.outcome, this.#choice, this.#end];
    metrics.requests.inc({ outcome, code: String(code) });
    log({
      event: "request",
      id: this.id,
      route: this.#route,
      code,
      outcome,
      ...(end === null
        ? { pruning_rate: choice === null ? null : engine.pruningRates[choice.level], reason: choice?.reason ?? null }
        : ratesJson(end, engine)),
      prompt_tokens: this.promptTokens,
      completion_tokens: this.#completionTokens,
      budget_met: end?.budgetMet ?? null,
      timings_ms: end === null ? { total: tenths(now() - this.arrivedMs) } : timingsJson(end),
      ...(logPrompts && { prompt: this.prompt }),
    });
  }
}

export interface RecordedEnv {
  Variables: { record: RequestRecord };
}

/** Starts the record of a request, and ends it unless its answer streams. */
export function recorded(services: Services): MiddlewareHandler<RecordedEnv> {
  return async function recorded(c, next) {
    const record = new RequestRecord(services, c.req.path);
    c.set("record", record);
    await next();
    if (!record.streams) record.finish(c.res.status);
  };
}

/** What an answer came to run at: the largest rate, the mean over its tokens, and why it was not the full model. */
export function ratesJson(
  { choice, level, tokensAtLevel }: GenerationEnd,
  { pruningRates }: Pick<Services["engine"], "pruningRates">,
): { pruning_rate: number; mean_pruning_rate: number; reason: RateChoice["reason"] } {
  const tokens = tokensAtLevel.reduce((sum, count) => sum + count, 0);
  const sum = tokensAtLevel.reduce((sum, count, level) => sum + count * pruningRates[level]!, 0);
  return {
    pruning_rate: pruningRates[level]!,
    mean_pruning_rate: tokens === 0 ? pruningRates[level]! : Math.round(1e4 * sum / tokens) / 1e4,
    // What runs is narrowed for nothing but load.
    reason: level > choice.level ? "load" : choice.reason,
  };
}

/** Timings under their wire names, in tenths of a millisecond. */
export function timingsJson({ timings }: GenerationEnd): Record<string, number> {
  return {
    queue: tenths(timings.queueMs),
    prefill: tenths(timings.prefillMs),
    decode: tenths(timings.decodeMs),
    total: tenths(timings.totalMs),
  };
}

/** Milliseconds as people read them. */
export function tenths(ms: number): number {
  return Math.round(ms * 10) / 10;
}
