import { z } from "zod";
import { GenerateBody, listOf, StopString, TokenIds } from "../schemas.ts";

const native = GenerateBody.shape;

/** Clients send `null` for what they do not set. */
const unset = <T extends z.ZodType>(type: T) => type.nullish();

/** Fields of this service beside OpenAI's; they mean what they mean in `POST /generate`. */
const ownFields = {
  latency_budget_ms: unset(native.latency_budget_ms),
  ttft_budget_ms: unset(native.ttft_budget_ms),
  tpot_budget_ms: unset(native.tpot_budget_ms),
  max_pruning_rate: unset(native.max_pruning_rate),
  pruning_rate: unset(native.pruning_rate),
  on_miss: unset(native.on_miss),
  top_k: unset(native.top_k),
  min_p: unset(native.min_p),
  repetition_penalty: unset(native.repetition_penalty),
};

/** As OpenAI has it. */
const MOST_PAIRS = 16;

/** Texts by name, counted before they are looked at, as the elements of {@linkcode listOf} are. */
const Metadata = z.preprocess((value, context) => {
  if (typeof value !== "object" || value === null || Object.keys(value).length <= MOST_PAIRS) return value;
  context.addIssue({ code: "custom", message: `Too big: expected at most ${MOST_PAIRS} pairs`, input: value });
  return z.NEVER;
}, z.record(z.string().max(64), z.string().max(512)).meta({ maxProperties: MOST_PAIRS }));

/**
 * Fields that change no answer here: names for accounting, and switches in the one position that we have. They are taken
 * because client libraries send them.
 */
const ignoredFields = {
  user: unset(z.string().max(512)),
  metadata: unset(Metadata),
  store: unset(z.literal(false, "Answers are not stored")),
  service_tier: unset(z.enum(["auto", "default"])),
  safety_identifier: unset(z.string().max(512)),
  prompt_cache_key: unset(z.string().max(512)),
  prompt_cache_retention: unset(z.string().max(64)),
};

/** A field of OpenAI's for what is not there. A name that nobody knows is told from it. */
const notSupported = (what: string) => unset(z.null(`${what} are not supported`)).describe("Not supported");

/** As {@linkcode notSupported}, for lists that client libraries send empty where they want nothing of it. */
const onlyEmpty = (what: string) =>
  unset(z.array(z.unknown(), `${what} are not supported`).max(0, `${what} are not supported`))
    .describe("Not supported: only an empty list is taken");

/** As {@linkcode notSupported}, for what can be said not to be wanted. */
const onlyNone = (what: string) =>
  unset(z.literal("none", `${what} are not supported`)).describe("Not supported: only none is taken");

const unsupportedFields = {
  tools: onlyEmpty("Tools"),
  tool_choice: onlyNone("Tools"),
  parallel_tool_calls: unset(z.boolean()).describe("Changes nothing without tools"),
  functions: onlyEmpty("Functions"),
  function_call: onlyNone("Functions"),
  audio: notSupported("Spoken answers"),
  prediction: notSupported("Predicted answers"),
  reasoning_effort: notSupported("Degrees of reasoning"),
  verbosity: notSupported("Degrees of verbosity"),
  web_search_options: notSupported("Searches of the web"),
};

const StreamOptions = z.strictObject({
  include_usage: unset(z.boolean()).describe("One more chunk at the end, with the count of tokens"),
  include_obfuscation: unset(z.literal(false)),
});

/**
 * What a body must have and can give in several forms. By itself a union counts as one that can be left out if a form
 * looks at its length first, which the published schema would say.
 */
const needed = <T extends z.ZodType>(type: T) => z.nonoptional(type);

const ONE_ANSWER = "More than one answer is not supported";

const sharedFields = {
  model: z.string().min(1).max(512).describe("Name of the model, or name@rate, which pins the rate").optional(),
  temperature: unset(z.number().min(0).max(2)).describe("0 takes the likeliest token; default 1"),
  top_p: unset(native.top_p),
  presence_penalty: unset(native.presence_penalty),
  frequency_penalty: unset(native.frequency_penalty),
  seed: unset(z.int()).describe("Any integer; its lowest 32 bits are used"),
  stop: unset(z.union([StopString, native.stop.unwrap()], "Expected up to 8 texts of 1 to 256 characters each")),
  stream: unset(z.boolean()),
  stream_options: unset(StreamOptions),
  n: unset(z.literal(1, ONE_ANSWER)).describe("One answer"),
  logit_bias: unset(z.strictObject({}, "Biases of tokens are not supported"))
    .describe("Not supported: only an empty object is taken"),
};

/** Body of `POST /v1/completions`. */
export const CompletionBody = z.strictObject({
  ...sharedFields,
  prompt: needed(z.union([
    z.string().min(1),
    listOf(z.string().min(1), { min: 1, max: 1 }),
    TokenIds,
    listOf(TokenIds, { min: 1, max: 1 }),
  ], "Expected one prompt: a text, token ids, or a list of one of them. Several at once are not supported"))
    .describe("One prompt, as text or token ids"),
  max_tokens: unset(native.max_new_tokens).describe("Default 16"),
  logprobs: unset(z.int().min(0).max(5)).describe("Likeliest tokens to report with each token"),
  echo: unset(z.literal(false, "The prompt in the answer is not supported")),
  best_of: unset(z.literal(1, ONE_ANSWER)),
  suffix: unset(z.literal("", "A text after the answer is not supported")),
  ...ownFields,
  ...ignoredFields,
}).superRefine(streamOptionsNeedStream);

const MOST_PARTS = 1024;
const TextPart = z.strictObject({ type: z.literal("text"), text: z.string() });
const content = needed(z.union(
  [z.string(), listOf(TextPart, { min: 1, max: MOST_PARTS })],
  `Expected a text, or 1 to ${MOST_PARTS} parts of type text. Images, audio and files are not supported`,
));

const name = notSupported("Names of participants");

const Message = z.discriminatedUnion("role", [
  z.strictObject({ role: z.enum(["system", "developer", "user"]), content, name }),
  z.strictObject({
    role: z.literal("assistant"),
    content,
    name,
    // What an answer has besides, as callers send it back.
    refusal: unset(z.null()),
    annotations: onlyEmpty("Annotations"),
    parsed: unset(z.null()),
    audio: notSupported("Spoken answers"),
    tool_calls: onlyEmpty("Tools"),
    function_call: notSupported("Functions"),
  }),
], "Expected system, developer, user or assistant. Tools are not supported");

const ONLY_TEXT = "Only answers of type text are supported";

/** Body of `POST /v1/chat/completions`. */
export const ChatBody = z.strictObject({
  ...sharedFields,
  messages: listOf(Message, { min: 1, max: 4096 }),
  max_tokens: unset(native.max_new_tokens).describe("Older name of max_completion_tokens"),
  max_completion_tokens: unset(native.max_new_tokens).describe("Default: as many as fit"),
  logprobs: unset(z.boolean()),
  top_logprobs: unset(z.int().min(0).max(20)),
  response_format: unset(z.strictObject({ type: z.literal("text", ONLY_TEXT) })),
  modalities: unset(z.tuple([z.literal("text")], ONLY_TEXT)),
  ...ownFields,
  ...ignoredFields,
  ...unsupportedFields,
}).superRefine((body, context) => {
  streamOptionsNeedStream(body, context);
  const issue = (field: string, message: string) => context.addIssue({ code: "custom", path: [field], message });
  const { max_tokens: older, max_completion_tokens: newer } = body;
  if (typeof older === "number" && typeof newer === "number" && older !== newer) {
    issue("max_tokens", `It differs from max_completion_tokens, which is ${newer}`);
  }
  if (typeof body.top_logprobs === "number" && body.logprobs !== true) {
    issue("top_logprobs", "It needs logprobs to be true");
  }
});

export type CompletionBody = z.output<typeof CompletionBody>;
export type ChatBody = z.output<typeof ChatBody>;

function streamOptionsNeedStream(
  body: { readonly stream?: boolean | null | undefined; readonly stream_options?: unknown },
  context: z.core.$RefinementCtx,
): void {
  if (body.stream_options !== null && body.stream_options !== undefined && body.stream !== true) {
    context.addIssue({ code: "custom", path: ["stream_options"], message: "It needs stream to be true", input: body });
  }
}
