import { Registry } from "prom-client";
import { createMetrics, type Engine, type LearnedTimes, type Metrics } from "../engine/mod.ts";
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
type PracticeRequest = typeof REQUESTS[number];

/**
 * Engines that practise one after the other. Code that was compiled for one is thrown away when there is another, until
 * it has seen that there can be several.
 */
const TURNS = 3;

export interface WarmUpOptions {
  /** Makes an engine like the service's, on the same runner; each is used when the one before is done. */
  readonly engineWith: (own: { readonly metrics: Metrics; readonly learned: LearnedTimes | undefined }) => Engine;
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
export async function warmUp({ engineWith, services, budgetMs }: WarmUpOptions): Promise<WarmUp> {
  const { now } = services;
  const startMs = now();
  let answers = 0;
  let learned: LearnedTimes | undefined;
  for (let turn = 1; turn <= TURNS; turn++) {
    const metrics = createMetrics(new Registry());
    const engine = engineWith({ metrics, learned });
    const ask = await practice({ ...unseen(services, metrics), engine }, budgetMs);
    while (answers === 0 || now() - startMs < budgetMs * turn / TURNS) {
      await ask(REQUESTS[answers++ % REQUESTS.length]!);
    }
    await engine.stop();
    learned = engine.learned;
  }
  return { answers, ms: now() - startMs, learned: learned! };
}

/** The service without what others would see of it, and without what would refuse requests of ours. */
function unseen(services: Omit<Services, "engine">, metrics: Metrics): Omit<Services, "engine"> {
  const log = () => {};
  return {
    ...services,
    ...{ metrics, log, logPrompts: false, refusals: new Refusals({ metrics, log, now: services.now }) },
    model: { ...services.model, eosTokenIds: [] }, // answers as long as they are asked for
    limits: { ...DEFAULT_JSON_LIMITS, maxPromptLength: PROMPT.length },
    security: { keys: null, metricsWithoutKey: true, hosts: null, origins: [] },
  };
}

/** Makes what sends a request and reads its answer, which a slow model gives within the time too, or nearly. */
async function practice(services: Services, budgetMs: number): Promise<(request: PracticeRequest) => Promise<void>> {
  const { engine, tokenizer, model } = services;
  const text = await tokenizer?.encode(PROMPT, { addSpecialTokens: true }) ?? [];
  const readable = text.length > 0 && text.length < engine.maxTokens && text.every((token) => token < model.vocabSize);
  const room = engine.maxTokens - (readable ? text.length : 1);
  const inTime = Math.max(2, Math.floor(budgetMs / engine.predicted(0).tokenMs));
  const tokens = Math.min(ANSWER_TOKENS, room, inTime);
  const app = createApp(services);
  return async ({ path, body }) => {
    const native = path === "/generate";
    const fields = {
      [native && !readable ? "prompt_tokens" : "prompt"]: readable ? PROMPT : [0],
      [native ? "max_new_tokens" : "max_tokens"]: tokens,
    };
    const response = await app.request(path, { method: "POST", body: JSON.stringify({ ...body, ...fields }) });
    const answer = await response.text();
    // A stream has begun with 200 when it fails.
    if (response.status !== 200 || /^(event: error|data: \{"error")/m.test(answer)) {
      throw new Error(`The service cannot answer: ${response.status}, ${answer}`);
    }
  };
}
