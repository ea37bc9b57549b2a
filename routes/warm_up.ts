import { Registry } from "prom-client";
import { createMetrics, type Engine, type LearnedTimes, type Metrics } from "../engine/mod.ts";
import { ChatTemplateError } from "../models/chat_template.ts";
import { createApp } from "./app.ts";
import { DEFAULT_JSON_LIMITS } from "./read_json.ts";
import { Refusals } from "./refusals.ts";
import type { Services } from "./services.ts";

/** Tokens of an answer, where so many fit. */
const ANSWER_TOKENS = 64;

const PROMPT = "Once upon a time";
const MESSAGES = [{ role: "user", content: PROMPT }];

/** Longer than any answer takes, so that it changes nothing. */
const BUDGET_MS = 3_600_000;

/** What is asked in turn: every kind of value that a field of many requests has is to have been seen. */
const REQUESTS = [
  { path: "/generate", body: { latency_budget_ms: BUDGET_MS } },
  { path: "/generate", body: { stream: true, seed: 1 } },
  { path: "/generate", body: { temperature: 0, latency_budget_ms: BUDGET_MS } },
  { path: "/v1/completions", body: { stream: true, latency_budget_ms: BUDGET_MS } },
  { path: "/v1/chat/completions", body: { stream: true } },
  { path: "/generate", body: {} },
] as const;

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
  // Before the time begins: the template's thread takes some to start, for which no caller is to wait.
  const conversation = await conversationTokens(services);
  const startMs = now();
  let answers = 0;
  let learned: LearnedTimes | undefined;
  for (let turn = 1; turn <= TURNS; turn++) {
    const metrics = createMetrics(new Registry());
    const engine = engineWith({ metrics, learned });
    const ask = await practice({ ...unseen(services, metrics), engine }, conversation, budgetMs);
    while (answers === 0 || now() - startMs < budgetMs * turn / TURNS) {
      await ask(answers++);
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
    limits: { ...DEFAULT_JSON_LIMITS, maxPromptLength: Math.max(PROMPT.length, services.limits.maxPromptLength) },
    security: { keys: null, metricsWithoutKey: true, hosts: null, origins: [] },
  };
}

/**
 * Makes what sends one request of ours after the other, by its number, and reads its answer, which a slow model gives
 * within the time too, or nearly.
 */
async function practice(
  services: Services,
  conversation: readonly number[],
  budgetMs: number,
): Promise<(request: number) => Promise<void>> {
  const { engine, tokenizer, model } = services;
  const fits = (prompt: readonly number[]) =>
    prompt.length > 0 && prompt.length < engine.maxTokens && prompt.every((token) => token < model.vocabSize);
  const text = await tokenizer?.encode(PROMPT, { addSpecialTokens: true }) ?? [];
  const readable = fits(text);
  const requests = REQUESTS.filter(({ path }) => path !== "/v1/chat/completions" || fits(conversation));
  const inTime = Math.max(2, Math.floor(budgetMs / engine.predicted(0).tokenMs));
  const tokensAfter = (prompt: number) => Math.min(ANSWER_TOKENS, engine.maxTokens - prompt, inTime);
  const prompted = { prompt: readable ? PROMPT : [0], max_tokens: tokensAfter(readable ? text.length : 1) };
  const fields = {
    "/generate": { [readable ? "prompt" : "prompt_tokens"]: prompted.prompt, max_new_tokens: prompted.max_tokens },
    "/v1/completions": prompted,
    "/v1/chat/completions": { messages: MESSAGES, max_completion_tokens: tokensAfter(conversation.length) },
  };
  const app = createApp(services);
  return async (request) => {
    const { path, body } = requests[request % requests.length]!;
    const sent = JSON.stringify({ ...body, ...fields[path] });
    const response = await app.request(path, { method: "POST", body: sent });
    const answer = await response.text();
    // A stream has begun with 200 when it fails.
    if (response.status !== 200 || /^(event: error|data: \{"error")/m.test(answer)) {
      throw new Error(`The service cannot answer: ${response.status}, ${answer}`);
    }
  };
}

/** A conversation of ours as tokens; none if the model takes no conversations, or not this one. */
async function conversationTokens(
  { tokenizer, chatTemplate, limits }: Pick<Services, "tokenizer" | "chatTemplate" | "limits">,
): Promise<readonly number[]> {
  if (tokenizer === null || chatTemplate === null) return [];
  try {
    const text = await chatTemplate.render(MESSAGES);
    return text.length > limits.maxPromptLength ? [] : await tokenizer.encode(text, { addSpecialTokens: false });
  } catch (error) {
    if (error instanceof ChatTemplateError) return [];
    throw error;
  }
}
