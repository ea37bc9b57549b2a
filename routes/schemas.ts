import { z } from "zod";
import { RequestError } from "./errors.ts";

/** An hour is longer than any answer should take. */
export const budgetMs = z.number().min(1).max(3_600_000);
export const rate = z.number().min(0).max(1);
const MOST_TOKENS = 1 << 20;
const MOST_TOKEN = 2 ** 31 - 1;

/** Problems of a body that are told. */
const MOST_PROBLEMS = 20;

/**
 * A list whose length is looked at before its elements: zod's own looks at all of them first, and makes a problem of
 * each, which for a body of a mebibyte takes longer than others should wait.
 */
export function listOf<T extends z.ZodType>(
  element: T,
  { min, max }: { readonly min: number; readonly max: number },
): z.ZodPreprocess<z.ZodArray<T>> {
  return z.preprocess((value, context) => {
    if (!Array.isArray(value) || value.length <= max) return value;
    context.addIssue({ code: "too_big", origin: "array", maximum: max, inclusive: true, input: value });
    return z.NEVER;
  }, z.array(element).min(min).max(max));
}

/** Token ids, of which the first that is none is told. There can be half a million, too many for a schema each. */
export const TokenIds = z.preprocess((value, context) => {
  if (!Array.isArray(value)) return value;
  const index = value.findIndex((token) => !Number.isInteger(token) || token < 0 || token > MOST_TOKEN);
  if (index < 0) return value;
  const message = `Invalid input: expected an integer from 0 to ${MOST_TOKEN}`;
  context.addIssue({ code: "custom", path: [index], message, input: value });
  return z.NEVER;
}, z.array(z.any().meta({ type: "integer", minimum: 0, maximum: MOST_TOKEN })).min(1).max(MOST_TOKENS)) as z.ZodType<
  number[]
>;

export const StopString = z.string().min(1).max(256)
  .refine((text) => text.isWellFormed(), "A lone surrogate");

/** Body of `POST /generate`. Which rates, tokens and lengths exist depends on the model and is checked after it. */
export const GenerateBody = z.strictObject({
  prompt: z.string().min(1).optional().describe("Text to continue"),
  prompt_tokens: TokenIds.optional().describe("Token ids to continue, in place of text"),
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
  stop: listOf(StopString, { min: 0, max: 8 }).default([])
    .describe("Strings that end the answer and are no part of it"),
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

/** @throws {RequestError} 400, with the problem of each field; `param` is the first field at fault. */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const { issues } = parsed.error;
  // The last problem of a field is its own bound, after those of its type.
  const problems = new Map(issues.slice(0, MOST_PROBLEMS).map((issue) => [fieldOf(issue), issue.message]));
  const told = Array.from(problems, ([field, message]) => field === null ? message : `${field}: ${message}`);
  if (issues.length > MOST_PROBLEMS) told.push("and more");
  throw new RequestError(400, told.join("; "), problems.keys().next().value ?? null);
}

/** The field at fault, which can be the empty name; `null` if it is the whole body. */
function fieldOf(issue: z.core.$ZodIssue): string | null {
  const path = [...issue.path, ...(issue.code === "unrecognized_keys" ? issue.keys.slice(0, 1) : [])];
  return path.length === 0 ? null : path.join(".");
}
