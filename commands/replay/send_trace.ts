import type { GenerateBody, ServiceClient } from "./client.ts";
import { type BudgetedRequest, type Outcome, outcomeOf } from "./outcome.ts";

export interface SendOptions {
  readonly client: ServiceClient;
  /** By arrival. */
  readonly requests: readonly BudgetedRequest[];
  /** Prompts of the requests. */
  readonly prompts: readonly (readonly number[])[];
  readonly onMiss: "degrade" | "truncate" | "reject";
  /** @param sent Requests that were sent. @param done Requests that were answered. */
  readonly onProgress: (sent: number, done: number) => void;
}

/** Beyond its budget, what a request is waited for: an answer that late is of no use to anybody. */
const PATIENCE_MS = 60_000;

/** Sends every request at its time, whatever became of those before, and waits for all answers. */
export async function sendTrace(options: SendOptions): Promise<Outcome[]> {
  const { client, requests, prompts, onMiss, onProgress } = options;
  const outcomes: Promise<Outcome>[] = [];
  let done = 0;
  const start = performance.now();
  for (const [index, request] of requests.entries()) {
    const wait = start + request.arrivalMs - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    const body: GenerateBody = {
      prompt_tokens: prompts[index]!,
      max_new_tokens: request.newTokens,
      temperature: 0,
      latency_budget_ms: request.budgetMs,
      on_miss: onMiss,
    };
    const sentMs = performance.now() - start;
    outcomes.push(
      client.generate(body, request.budgetMs + PATIENCE_MS).then((reply) => {
        onProgress(outcomes.length, ++done);
        return outcomeOf(request, sentMs, reply);
      }),
    );
    onProgress(outcomes.length, done);
  }
  return await Promise.all(outcomes);
}
