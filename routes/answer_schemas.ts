import { z } from "zod";

const milliseconds = z.number().nullable();
const LogprobEntry = z.strictObject({ token: z.int(), text: z.string(), logprob: z.number() });

/** What `POST /generate` answers. It describes the answer for callers and tests; nothing is checked by it on the way. */
export const GenerateAnswer = z.strictObject({
  id: z.string(),
  model: z.string(),
  text: z.string(),
  usage: z.strictObject({ prompt_tokens: z.int(), completion_tokens: z.int() }),
  finish_reason: z.enum(["stop", "length", "budget"]),
  pruning_rate: z.number().describe("The rate that ran; the last one, if load made it larger while it ran"),
  mean_pruning_rate: z.number().describe("Over the tokens of the answer"),
  reason: z.enum(["idle", "budget", "load", "pinned", "floor"]).describe("Why this rate"),
  budget: z.object({
    latency_budget_ms: milliseconds,
    ttft_budget_ms: milliseconds,
    tpot_budget_ms: milliseconds,
    predicted_ms: z.number().describe("Arrival to last token, as predicted when the request got its slot"),
    predicted_ms_at_rate_0: z.number(),
    met: z.boolean().nullable().describe("null without a budget"),
  }),
  timings_ms: z.strictObject({ queue: z.number(), prefill: z.number(), decode: z.number(), total: z.number() }),
  logprobs: z.array(LogprobEntry.extend({ top: z.array(LogprobEntry) })).optional(),
});

/** What every refusal and failure answers, in OpenAI's shape. */
export const ErrorBody = z.strictObject({
  error: z.strictObject({
    type: z.string(),
    message: z.string(),
    param: z.string().nullable().describe("The field or header at fault"),
  }),
});
