import { Registry } from "prom-client";
import { createMetrics, Engine, type EngineOptions, type LearnedTimes } from "../engine/mod.ts";
import { createApp } from "./app.ts";
import { DEFAULT_JSON_LIMITS } from "./read_json.ts";
import { Refusals } from "./refusals.ts";
import type { Services } from "./services.ts";

/** Tokens of an answer, where so many fit. */
const ANSWER_TOKENS = 64;

const PROMPT = "Once upon a time";

/** Longer than any answer takes, so that it changes nothing. */
const BUDGET_MS = 3_600_000;

/** What is asked in turn: every kind of value that a field of many requests has is to have been seen. */
const REQUESTS = [
  { path: "/generate", body: { latency_budget_ms: BUDGET_MS } },
  { path: "/generate", body: { stream: true, seed: 1 } },
  { path: "/generate", body: { temperature: 0, latency_budget_ms: BUDGET_MS } },
  { path: "/v1/completions", body: { stream: true, latency_budget_ms: BUDGET_MS } },
  { path: "/generate", body: {} },
] as const;

export interface WarmUpOptions {
  /** Of the service's engine, whose slots are all free; they are so again afterwards. */
  readonly engine: Omit<EngineOptions, "metrics" | "reopen" | "learned">;
  readonly services: Omit<Services, "engine">;
  /** Time after which no other answer is begun. */
  readonly budgetMs: number;
}

export interface WarmUp {
  readonly answers: number;
  readonly ms: number;
  /** What the service's engine begins with. */
  readonly learned: LearnedTimes;
}

/**
 * Answers requests of our own for a while, on the way that all requests take: code runs several times slower until the
 * runtime has compiled it, which the first callers would have to wait for, and nothing would be known of the time
 * between two steps. Nobody sees it: engine, metrics and log are others than the service's.
 *
 * @throws {Error} If a request gets no answer.
 */
export async function warmUp({ engine: engineOptions, services, budgetMs }: WarmUpOptions): Promise<WarmUp> {
  const { now, tokenizer, model } = services;
  const registry = new Registry();
  const metrics = createMetrics(registry);
  // What other work takes of the machine it reads where the service does.
  const engine = new Engine({ ...engineOptions, metrics });
  const log = () => {};
  const app = createApp({
    ...services,
    ...{ engine, metrics, registry, log, logPrompts: false, refusals: new Refusals({ metrics, log, now }) },
    model: { ...model, eosTokenIds: [] }, // answers as long as they are asked for
    limits: { ...DEFAULT_JSON_LIMITS, maxPromptLength: PROMPT.length },
    security: { keys: null, metricsWithoutKey: true, hosts: null, origins: [] },
  });
  const text = await tokenizer?.encode(PROMPT, { addSpecialTokens: true }) ?? [];
  const readable = text.length > 0 && text.length < engine.maxTokens && text.every((token) => token < model.vocabSize);
  const prompt = readable ? PROMPT : [0];
  const room = engine.maxTokens - (readable ? text.length : 1);
  const inTime = Math.max(2, Math.floor(budgetMs / engine.predicted(0).tokenMs));
  const tokens = Math.min(ANSWER_TOKENS, room, inTime);

  const startMs = now();
  let answers = 0;
  for (; answers === 0 || now() - startMs < budgetMs; answers++) {
    const { path, body } = REQUESTS[answers % REQUESTS.length]!;
    const native = path === "/generate";
    const fields = {
      [native && !readable ? "prompt_tokens" : "prompt"]: prompt,
      [native ? "max_new_tokens" : "max_tokens"]: tokens,
    };
    const response = await app.request(path, { method: "POST", body: JSON.stringify({ ...body, ...fields }) });
    const answer = await response.text();
    if (response.status !== 200) throw new Error(`The service cannot answer: ${response.status}, ${answer}`);
  }
  await engine.stop();
  return { answers, ms: now() - startMs, learned: engine.learned };
}
