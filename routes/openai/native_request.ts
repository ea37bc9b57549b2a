import type { TextRequest } from "../../engine/mod.ts";
import { RequestError } from "../errors.ts";
import { generateRequest } from "../generate_request.ts";
import { GenerateBody, parseBody } from "../schemas.ts";
import type { Services } from "../services.ts";
import { pinnedRate } from "./model_name.ts";
import type { ChatBody, CompletionBody } from "./schemas.ts";

/** What the two APIs do not say in the same words. */
interface Differences {
  readonly prompt: string | undefined;
  readonly prompt_tokens: readonly number[] | undefined;
  readonly max_new_tokens: number | undefined;
  readonly logprobs: number | undefined;
  /** The caller's names for our fields, where they differ. */
  readonly names: Readonly<Record<string, string>>;
}

/**
 * A request in OpenAI's words as one in ours, which then passes the same schema and the same checks.
 *
 * @throws {RequestError} As `generateRequest`, 404 if the model is another, 400 if its name pins another rate than a field
 * does; fields are called as the caller calls them.
 */
export async function nativeRequest(
  body: ChatBody | CompletionBody,
  { names, ...differences }: Differences,
  services: Pick<Services, "engine" | "model" | "tokenizer" | "limits" | "newSeed">,
  arrivedMs: number,
): Promise<TextRequest> {
  const pinned = body.model === undefined ? null : pinnedRate(body.model, services.model);
  if (pinned !== null && typeof body.pruning_rate === "number" && body.pruning_rate !== pinned) {
    throw new RequestError(400, `It differs from the rate of the model, which is ${pinned}`, "pruning_rate");
  }
  const stop = typeof body.stop === "string" ? [body.stop] : body.stop;
  const fields = {
    ...differences,
    stop,
    seed: typeof body.seed === "number" ? Number(BigInt.asUintN(32, BigInt(body.seed))) : undefined,
    pruning_rate: pinned ?? body.pruning_rate,
    temperature: body.temperature,
    top_p: body.top_p,
    top_k: body.top_k,
    min_p: body.min_p,
    presence_penalty: body.presence_penalty,
    frequency_penalty: body.frequency_penalty,
    repetition_penalty: body.repetition_penalty,
    latency_budget_ms: body.latency_budget_ms,
    ttft_budget_ms: body.ttft_budget_ms,
    tpot_budget_ms: body.tpot_budget_ms,
    max_pruning_rate: body.max_pruning_rate,
    on_miss: body.on_miss,
  };
  const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null && value !== undefined));
  try {
    return await generateRequest(parseBody(GenerateBody, given), services, arrivedMs);
  } catch (error) {
    if (!(error instanceof RequestError) || error.param === null) throw error;
    const [field = "", ...rest] = error.param.split(".");
    throw new RequestError(error.status, error.message, [names[field] ?? field, ...rest].join("."));
  }
}
