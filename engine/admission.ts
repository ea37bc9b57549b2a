import { BudgetError, QueueFullError } from "./errors.ts";
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

  /** @throws {RangeError} If the request is empty or too long for a sequence. */
  checkLength({ promptTokens, maxNewTokens }: GenerationRequest): void {
    const { maxTokens } = this.#options;
    if (promptTokens.length === 0) throw new RangeError("Cannot continue a prompt without tokens");
    if (maxNewTokens < 1 || promptTokens.length + maxNewTokens > maxTokens) {
      throw new RangeError(
        `Cannot add ${maxNewTokens} tokens to ${promptTokens.length}: a sequence holds ${maxTokens}`,
      );
    }
  }

  /**
   * @throws {QueueFullError} If too many are waiting, or too many for this request's budget.
   * @throws {BudgetError} If no rate is predicted to meet the budget, and the request asked to be refused then.
   */
  checkRoom(request: GenerationRequest): void {
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
