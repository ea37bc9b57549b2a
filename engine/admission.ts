import { type EngineState, NOT_READY } from "./engine_state.ts";
import { BudgetError, NotReadyError, QueueFullError, StoppingError } from "./errors.ts";
import type { GenerationRequest } from "./generation.ts";
import { countRefusal, type Metrics } from "./metrics.ts";
import type { RateAnswer } from "./rate_selector.ts";
import type { WaitingQueue } from "./waiting_queue.ts";

export interface AdmissionOptions {
  readonly queue: WaitingQueue;
  /** Requests that can run at once. */
  readonly slots: number;
  /** Tokens of prompt and answer that a request can have. */
  readonly maxTokens: number;
  /** Requests that can wait for a slot. */
  readonly maxWaiting: number;
  /** Prompt tokens of all that wait for a slot. */
  readonly maxWaitingTokens: number;
  readonly pruningRates: readonly number[];
  readonly metrics: Metrics;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
  /** Whether requests are taken at all. */
  readonly state: () => EngineState;
  /** Requests that run. */
  readonly running: () => number;
  /** What would be decided about a request that arrives now. */
  readonly decide: (request: GenerationRequest) => RateAnswer;
  /** Expected milliseconds until all that there is is done. */
  readonly remainingMs: () => number;
}

/** The door: who cannot be served, or not in time, is told at once. */
export class Admission {
  readonly #options: AdmissionOptions;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Returns if the request may come in. @throws What `Engine.generate()` throws of a request. */
  check(request: GenerationRequest): void {
    const { metrics, now } = this.#options;
    const askedMs = now();
    try {
      this.#checkLength(request);
      metrics.requestsArrived.inc();
      this.#checkState();
      this.#checkRoom(request);
    } finally {
      metrics.admissionTime.observe((now() - askedMs) / 1000);
    }
  }

  #checkLength({ promptTokens, maxNewTokens }: GenerationRequest): void {
    const { maxTokens } = this.#options;
    if (promptTokens.length === 0) throw new RangeError("Cannot continue a prompt without tokens");
    if (maxNewTokens < 1 || promptTokens.length + maxNewTokens > maxTokens) {
      throw new RangeError(
        `Cannot add ${maxNewTokens} tokens to ${promptTokens.length}: a sequence holds ${maxTokens}`,
      );
    }
  }

  #checkState(): void {
    const { metrics } = this.#options;
    const state = this.#options.state();
    if (state === "draining") {
      countRefusal(metrics, "stopping");
      throw new StoppingError(NOT_READY.draining);
    }
    if (state !== "ready") {
      countRefusal(metrics, "not_ready");
      throw new NotReadyError(NOT_READY[state]);
    }
  }

  #checkRoom(request: GenerationRequest): void {
    const { queue, slots, maxWaiting, maxWaitingTokens, running, decide } = this.#options;
    if (running() + queue.length >= slots) {
      if (queue.length >= maxWaiting) throw this.#queueFull(`${queue.length} requests are waiting, no more can`);
      const tokens = queue.promptTokens;
      const { length } = request.promptTokens;
      if (tokens + length > maxWaitingTokens) {
        throw this.#queueFull(
          `${tokens} prompt tokens are waiting, with ${length} more they would be over ${maxWaitingTokens}`,
        );
      }
    }
    const answer = decide(request);
    if (answer.kind === "refuse") throw this.#refusal(request, answer);
  }

  #queueFull(message: string): QueueFullError {
    const { metrics, remainingMs } = this.#options;
    countRefusal(metrics, "queue_full");
    return new QueueFullError(message, remainingMs());
  }

  #refusal({ budget }: GenerationRequest, { reason, choice }: Extract<RateAnswer, { kind: "refuse" }>): Error {
    const { metrics, pruningRates, remainingMs } = this.#options;
    countRefusal(metrics, reason);
    const message = `at pruning rate ${pruningRates[choice.level]} the answer would take ` +
      `${choice.predictedMs.toFixed(1)} ms, its first token ${choice.predictedTtftMs.toFixed(1)} ms`;
    if (reason === "budget") return new BudgetError(`The budget cannot be met: ${message}`, remainingMs());
    // When the machine is free for it again: now less its own time, in which the budget could be met.
    const limitMs = Math.min(budget.latencyMs ?? Infinity, budget.ttftMs ?? Infinity);
    const retryMs = Number.isFinite(limitMs) ? Math.max(0, choice.predictedMs - limitMs) : remainingMs();
    return new QueueFullError(`Too much is waiting for this budget: ${message}`, retryMs);
  }
}
