import type { TextToken } from "../../engine/mod.ts";
import { readJson } from "../read_json.ts";
import type { Route } from "../route.ts";
import { parseBody } from "../schemas.ts";
import type { ServedTokenizer } from "../services.ts";
import { nativeRequest } from "./native_request.ts";
import { generatesOpenAi } from "./operation.ts";
import { withRateHeaders } from "./rate_headers.ts";
import { respond, type Wording } from "./respond.ts";
import { CompletionBody } from "./schemas.ts";

/** As OpenAI has it. */
const DEFAULT_MAX_TOKENS = 16;

export const completions: Route = {
  method: "POST",
  path: "/v1/completions",
  recorded: true,
  operation: generatesOpenAi({
    summary: "Continues a prompt, as OpenAI has it",
    body: "CompletionBody",
    object: "text_completion",
  }),
  schemas: { CompletionBody },
  handler: (services) => async (c) => {
    const { raw } = c.req;
    const body = parseBody(CompletionBody, withRateHeaders(await readJson(raw, services), raw.headers));
    const prompt = onlyPrompt(body.prompt);
    c.var.record.prompt = prompt;
    const request = await nativeRequest(
      body,
      {
        prompt: typeof prompt === "string" ? prompt : undefined,
        prompt_tokens: typeof prompt === "string" ? undefined : prompt,
        max_new_tokens: body.max_tokens ?? DEFAULT_MAX_TOKENS,
        logprobs: body.logprobs ?? undefined,
        names: { prompt_tokens: "prompt", max_new_tokens: "max_tokens" },
      },
      services,
      c.var.record.arrivedMs,
    );
    const wording = completionWording(request.sampling.logprobs === null ? null : services.tokenizer);
    const includeUsage = body.stream_options?.include_usage ?? false;
    return respond(c, services, { request, wording, stream: body.stream ?? false, includeUsage });
  },
};

function onlyPrompt(prompt: CompletionBody["prompt"]): string | readonly number[] {
  if (typeof prompt === "string") return prompt;
  const [first] = prompt;
  return typeof first === "number" ? prompt as number[] : first!;
}

/** @param tokenizer `null` if no log-probabilities are wanted. */
function completionWording(tokenizer: ServedTokenizer | null): Wording {
  let offset = 0;
  const part = (tokens: readonly TextToken[], finishReason: string | null) => ({
    index: 0,
    text: tokens.map(({ text }) => text).join(""),
    logprobs: tokenizer === null || tokens.length === 0 ? null : logprobs(tokens, tokenizer),
    finish_reason: finishReason,
  });
  /** Four lists in step, and of each token how many characters of the answer came before it. */
  const logprobs = (tokens: readonly TextToken[], tokenizer: ServedTokenizer) => ({
    tokens: tokens.map(({ token }) => tokenName(token, tokenizer)),
    token_logprobs: tokens.map(({ logprobs }) => logprobs!.logprob),
    top_logprobs: tokens.map(({ token, logprobs }) =>
      Object.fromEntries(
        [...logprobs!.top, { token, logprob: logprobs!.logprob }].map((one) => [
          tokenName(one.token, tokenizer),
          one.logprob,
        ]),
      )
    ),
    text_offset: tokens.map(({ text }) => {
      const before = offset;
      offset += Array.from(text).length;
      return before;
    }),
  });
  return {
    prefix: "cmpl",
    object: "text_completion",
    chunkObject: "text_completion",
    whole: (tokens, finishReason) => part(tokens, finishReason),
    start: () => null,
    token: (token) => token.text === "" && tokenizer === null ? null : part([token], null),
    end: (finishReason) => part([], finishReason),
  };
}

/** A token as a key: its text, or its bytes where they are no whole characters, so that no two are called the same. */
function tokenName(token: number, tokenizer: ServedTokenizer): string {
  const bytes = tokenizer.tokenBytes(token);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes as Uint8Array<ArrayBuffer>);
  } catch {
    return `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}
