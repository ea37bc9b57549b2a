import type { Reply } from "./client.ts";
import type { TraceRequest } from "./trace.ts";

/** A request of a trace with what it is given to answer in. */
export interface BudgetedRequest extends TraceRequest {
  /** Of the trace, from 0. Arrivals count from the start of each. */
  readonly round: number;
  /** Arrival to last token. */
  readonly budgetMs: number;
}

/** What became of one request, as its client saw it. */
export interface Outcome extends BudgetedRequest {
  /** When it was sent, since the start of the trace: the arrival, unless the client was late. */
  readonly sentMs: number;
  /** HTTP status; 0 if the connection failed. */
  readonly status: number;
  /** From sending to the whole answer. */
  readonly ms: number;
  /** What the service told about it; `null` if there was no answer. */
  readonly served: Served | null;
}

/** What an answer says of itself. Times are the service's, from arrival there. */
export interface Served {
  /** The largest rate that it ran at. */
  readonly pruningRate: number;
  /** Over its tokens. */
  readonly meanPruningRate: number;
  readonly reason: string;
  readonly finishReason: string;
  readonly tokens: number;
  readonly predictedMs: number;
  readonly ttftMs: number;
  readonly decodeMs: number;
  readonly totalMs: number;
  readonly met: boolean;
}

/** The outcome of a request from the reply to it. */
export function outcomeOf(request: BudgetedRequest, sentMs: number, { status, ms, answer }: Reply): Outcome {
  const { round, arrivalMs, promptTokens, newTokens, budgetClass, budgetMs } = request;
  return {
    ...{ round, arrivalMs, promptTokens, newTokens, budgetClass, budgetMs, sentMs, status, ms },
    served: answer === null ? null : {
      pruningRate: answer.pruning_rate,
      meanPruningRate: answer.mean_pruning_rate,
      reason: answer.reason,
      finishReason: answer.finish_reason,
      tokens: answer.usage.completion_tokens,
      predictedMs: answer.budget.predicted_ms,
      ttftMs: answer.timings_ms.queue + answer.timings_ms.prefill,
      decodeMs: answer.timings_ms.decode,
      totalMs: answer.timings_ms.total,
      met: answer.budget.met === true,
    },
  };
}

/** Whether the client had its whole answer in time. An answer that was cut off because time ran out is none. */
export function isMet({ served, ms, budgetMs }: Outcome): boolean {
  return served !== null && served.finishReason !== "budget" && ms <= budgetMs;
}
