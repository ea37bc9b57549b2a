import type { z } from "zod";
import type { TextRequest } from "../engine/mod.ts";
import { RequestError } from "./errors.ts";
import type { GenerateBody } from "./schemas.ts";
import type { Services } from "./services.ts";

const DEFAULT_NEW_TOKENS = 128;

/**
 * Puts a body that passed its schema to the model at hand.
 *
 * @throws {RequestError} 422 if a rate is not prepared, 413 if prompt and answer are too long together, 400 if tokens
 * are not in the vocabulary or there is no text where it is needed.
 */
export async function generateRequest(
  body: z.output<typeof GenerateBody>,
  { engine, model, tokenizer, limits, newSeed }: Pick<
    Services,
    "engine" | "model" | "tokenizer" | "limits" | "newSeed"
  >,
  arrivedMs: number,
): Promise<TextRequest> {
  const rates = engine.pruningRates;
  const pinnedLevel = body.pruning_rate === undefined ? null : levelOf(rates, body.pruning_rate, "pruning_rate");
  const floorLevel = body.max_pruning_rate === undefined
    ? rates.length - 1
    : levelOf(rates, body.max_pruning_rate, "max_pruning_rate");
  const field = body.prompt === undefined ? "prompt_tokens" : "prompt";
  if (tokenizer === null && field === "prompt") {
    throw new RequestError(400, "The model has no tokenizer: give prompt_tokens", field);
  }
  if (tokenizer === null && body.stop.length > 0) {
    throw new RequestError(400, "The model has no tokenizer: there is no text to stop at", "stop");
  }
  checkLength(body.prompt ?? "", limits, field);
  const promptTokens = body.prompt_tokens ?? await tokenizer!.encode(body.prompt!, { addSpecialTokens: true });
  const foreign = promptTokens.findIndex((token) => token >= model.vocabSize);
  if (foreign >= 0) {
    throw new RequestError(
      400,
      `Token ${promptTokens[foreign]} is not in the vocabulary of ${model.vocabSize}`,
      field === "prompt" ? field : `${field}.${foreign}`,
    );
  }
  if (promptTokens.length === 0) throw new RequestError(400, "The prompt has no tokens", field);
  const room = engine.maxTokens - promptTokens.length;
  if (room < 1) {
    throw new RequestError(
      413,
      `The prompt has ${promptTokens.length} tokens: with the answer it can have ${engine.maxTokens}`,
      field,
    );
  }
  const maxNewTokens = body.max_new_tokens ?? Math.min(DEFAULT_NEW_TOKENS, room);
  if (maxNewTokens > room) {
    throw new RequestError(
      413,
      `The prompt has ${promptTokens.length} tokens, ${maxNewTokens} more do not fit: ` +
        `together they can be ${engine.maxTokens}`,
      "max_new_tokens",
    );
  }
  return {
    promptTokens,
    maxNewTokens,
    eosTokenIds: model.eosTokenIds,
    sampling: {
      temperature: body.temperature,
      topK: body.top_k,
      topP: body.top_p,
      minP: body.min_p,
      repetitionPenalty: body.repetition_penalty,
      presencePenalty: body.presence_penalty,
      frequencyPenalty: body.frequency_penalty,
      seed: body.seed ?? newSeed(),
      logprobs: body.logprobs ?? null,
    },
    pinnedLevel,
    floorLevel,
    budget: {
      latencyMs: body.latency_budget_ms ?? null,
      ttftMs: body.ttft_budget_ms ?? null,
      tpotMs: body.tpot_budget_ms ?? null,
    },
    onMiss: body.on_miss,
    stop: body.stop,
    arrivedMs,
  };
}

function levelOf(rates: readonly number[], rate: number, field: string): number {
  const level = rates.indexOf(rate);
  if (level >= 0) return level;
  throw new RequestError(422, `Pruning rate ${rate} is not prepared; these are: ${rates.join(", ")}`, field);
}

/** @throws {RequestError} 413 if a text is longer than what is turned into tokens at all. */
export function checkLength(text: string, { maxPromptLength }: Services["limits"], field: string): void {
  if (text.length <= maxPromptLength) return;
  throw new RequestError(
    413,
    `The text has ${text.length} UTF-16 code units: ${maxPromptLength} are the most, see --max-prompt-length`,
    field,
  );
}
