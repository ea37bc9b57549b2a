import { z } from "zod";
import { RequestError } from "./errors.ts";

/** An hour is longer than any answer should take. */
const budgetMs = z.number().min(1).max(3_600_000);
const rate = z.number().min(0).max(1);
const MOST_TOKENS = 1 << 20;

/** Body of `POST /generate`. Which rates, tokens and lengths exist depends on the model and is checked after it. */
export const GenerateBody = z.strictObject({
  prompt: z.string().min(1).optional(),
  prompt_tokens: z.array(z.int().min(0).max(2 ** 31 - 1)).min(1).max(MOST_TOKENS).optional(),
  max_new_tokens: z.int().min(1).max(MOST_TOKENS).optional(),
  latency_budget_ms: budgetMs.optional(),
  ttft_budget_ms: budgetMs.optional(),
  tpot_budget_ms: budgetMs.optional(),
  max_pruning_rate: rate.optional(),
  pruning_rate: rate.optional(),
  on_miss: z.enum(["degrade", "truncate", "reject"]).default("degrade"),
  temperature: z.number().min(0).max(100).default(1),
  top_k: z.int().min(0).max(MOST_TOKENS).default(0),
  top_p: z.number().min(0).max(1).default(1),
  min_p: z.number().min(0).max(1).default(0),
  repetition_penalty: z.number().min(0.01).max(100).default(1),
  presence_penalty: z.number().min(-2).max(2).default(0),
  frequency_penalty: z.number().min(-2).max(2).default(0),
  seed: z.int().min(0).max(2 ** 32 - 1).optional(),
  stop: z.array(z.string().min(1).max(256).refine((text) => text.isWellFormed(), "Half of a surrogate pair")).max(8)
    .default([]),
  logprobs: z.int().min(0).max(20).optional(),
  stream: z.boolean().default(false),
}).superRefine((body, context) => {
  const issue = (field: string, message: string) => context.addIssue({ code: "custom", path: [field], message });
  if (body.prompt === undefined && body.prompt_tokens === undefined) issue("prompt", "Give prompt or prompt_tokens");
  if (body.prompt !== undefined && body.prompt_tokens !== undefined) {
    issue("prompt_tokens", "Give prompt or prompt_tokens, not both");
  }
  if (body.pruning_rate !== undefined && body.pruning_rate > (body.max_pruning_rate ?? 1)) {
    issue("pruning_rate", `It is above max_pruning_rate, which is ${body.max_pruning_rate}`);
  }
});

/** @throws {RequestError} 400, with all problems; `param` is the first field at fault. */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => ({
    field: issue.code === "unrecognized_keys" ? issue.keys[0]! : issue.path.join("."),
    message: issue.message,
  }));
  const message = problems.map(({ field, message }) => field === "" ? message : `${field}: ${message}`).join("; ");
  throw new RequestError(400, message, problems[0]!.field || null);
}
