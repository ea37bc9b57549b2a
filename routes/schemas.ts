import { z } from "zod";
import { RequestError } from "./errors.ts";

/** An hour is longer than any answer should take. */
const budgetMs = z.number().min(1).max(3_600_000);
const rate = z.number().min(0).max(1);
const MOST_TOKENS = 1 << 20;

/** Body of `POST /generate`. Which rates, tokens and lengths exist depends on the model and is checked after it. */
export const GenerateBody = z.strictObject({
  prompt: z.string().min(1).optional().describe("Text to continue"),
  prompt_tokens: z.array(z.int().min(0).max(2 ** 31 - 1)).min(1).max(MOST_TOKENS).optional().describe(
    "Token ids to continue, in place of text",
  ),
  max_new_tokens: z.int().min(1).max(MOST_TOKENS).optional().describe("Default 128, or what fits"),
  latency_budget_ms: budgetMs.optional().describe("From arrival to the last token"),
  ttft_budget_ms: budgetMs.optional().describe("From arrival to the first token"),
  tpot_budget_ms: budgetMs.optional().describe("Per token after the first"),
  max_pruning_rate: rate.optional().describe("Floor of quality: never prune more than this prepared rate"),
  pruning_rate: rate.optional().describe("Pin: exactly this prepared rate"),
  on_miss: z.enum(["degrade", "truncate", "reject"]).default("degrade").describe(
    "If no allowed rate fits the budget: run at the largest, stop when the budget ends, or refuse with 429",
  ),
  temperature: z.number().min(0).max(100).default(1).describe("0 takes the likeliest token"),
  top_k: z.int().min(0).max(MOST_TOKENS).default(0).describe("Keeps this many of the likeliest tokens; 0 keeps all"),
  top_p: z.number().min(0).max(1).default(1).describe(
    "Keeps the likeliest tokens that reach this probability together",
  ),
  min_p: z.number().min(0).max(1).default(0).describe("Keeps tokens at least this share as likely as the likeliest"),
  repetition_penalty: z.number().min(0.01).max(100).default(1).describe(
    "Makes tokens of prompt and answer less likely; 1 is none",
  ),
  presence_penalty: z.number().min(-2).max(2).default(0).describe("Subtracted from the logits of tokens in the answer"),
  frequency_penalty: z.number().min(-2).max(2).default(0).describe(
    "The same, once for each time that a token is there",
  ),
  seed: z.int().min(0).max(2 ** 32 - 1).optional().describe(
    "The same seed gives the same answer; default: another each time",
  ),
  stop: z.array(z.string().min(1).max(256).refine((text) => text.isWellFormed(), "Half of a surrogate pair")).max(8)
    .default([]).describe("Strings that end the answer and are no part of it"),
  logprobs: z.int().min(0).max(20).optional().describe("Likeliest tokens to report with each token"),
  stream: z.boolean().default(false).describe("Server-sent events"),
}).superRefine((body, context) => {
  const issue = (field: string, message: string) => context.addIssue({ code: "custom", path: [field], message });
  if (body.prompt === undefined && body.prompt_tokens === undefined) issue("prompt", "Give prompt or prompt_tokens");
  if (body.prompt !== undefined && body.prompt_tokens !== undefined) {
    issue("prompt_tokens", "Give prompt or prompt_tokens, not both");
  }
  const { pruning_rate: pinned, max_pruning_rate: most } = body;
  if (pinned !== undefined && most !== undefined && pinned > most) {
    issue("pruning_rate", `It is above max_pruning_rate, which is ${most}`);
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
