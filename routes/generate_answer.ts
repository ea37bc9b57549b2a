import type { GenerationEnd, Logprobs, RateChoice, TextEvent, TextRequest, TextToken } from "../engine/mod.ts";
import { ratesJson, tenths, timingsJson } from "./request_record.ts";
import type { Services } from "./services.ts";

/** The documents that answer one request to `/generate`. */
export class Answer {
  readonly pruningRate: number;
  readonly #services: Pick<Services, "engine" | "model" | "tokenizer">;
  readonly #request: TextRequest;
  readonly #id: string;
  readonly #choice: RateChoice;

  constructor(
    services: Pick<Services, "engine" | "model" | "tokenizer">,
    request: TextRequest,
    id: string,
    choice: RateChoice,
  ) {
    this.#services = services;
    this.#request = request;
    this.#id = id;
    this.#choice = choice;
    this.pruningRate = services.engine.pruningRates[choice.level]!;
  }

  /** Data of the event `start`. */
  start(): Record<string, unknown> {
    return { ...this.#facts, budget: this.#budget };
  }

  /** Data of an event `token`. */
  token({ text, token, index, level, logprobs }: TextToken): Record<string, unknown> {
    const pruning_rate = this.#services.engine.pruningRates[level];
    return { text, token, index, pruning_rate, ...(logprobs !== null && { logprobs: this.#logprobs(logprobs) }) };
  }

  /** Data of the event `end`: the whole answer without its text. */
  end(end: GenerationEnd): Record<string, unknown> {
    return {
      ...this.#facts,
      ...ratesJson(end, this.#services.engine),
      usage: { prompt_tokens: this.#request.promptTokens.length, completion_tokens: end.completionTokens },
      finish_reason: end.finishReason,
      budget: { ...this.#budget, met: end.budgetMet },
      timings_ms: timingsJson(end),
    };
  }

  /** The whole answer, from the events after its start. */
  whole(events: readonly TextEvent[]): Record<string, unknown> {
    const tokens = events.filter((event) => event.kind === "token");
    const text = tokens.map(({ text }) => text).join("");
    const logprobs = tokens.flatMap(({ token, logprobs }) =>
      logprobs === null ? [] : [{ token, text: this.#textOf(token), ...this.#logprobs(logprobs) }]
    );
    const wanted = this.#request.sampling.logprobs !== null;
    return { ...this.end(events.at(-1) as GenerationEnd), text, ...(wanted && { logprobs }) };
  }

  get #facts(): Record<string, unknown> {
    const { model } = this.#services;
    return { id: this.#id, model: model.name, pruning_rate: this.pruningRate, reason: this.#choice.reason };
  }

  get #budget(): Record<string, unknown> {
    const { latencyMs, ttftMs, tpotMs } = this.#request.budget;
    return {
      latency_budget_ms: latencyMs,
      ttft_budget_ms: ttftMs,
      tpot_budget_ms: tpotMs,
      predicted_ms: tenths(this.#choice.predictedMs),
      predicted_ms_at_rate_0: tenths(this.#choice.predictedMsAtRate0),
    };
  }

  #logprobs({ logprob, top }: Logprobs): Record<string, unknown> {
    return { logprob, top: top.map(({ token, logprob }) => ({ token, text: this.#textOf(token), logprob })) };
  }

  #textOf(token: number): string {
    return this.#services.tokenizer?.tokenText(token) ?? "";
  }
}
