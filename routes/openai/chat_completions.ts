import type { TextToken } from "../../engine/mod.ts";
import { type ChatMessage, ChatTemplateError } from "../../models/chat_template.ts";
import { RequestError } from "../errors.ts";
import { checkLength } from "../generate_request.ts";
import { readJson } from "../read_json.ts";
import type { Route } from "../route.ts";
import { parseBody } from "../schemas.ts";
import type { ServedTokenizer, Services } from "../services.ts";
import { nativeRequest } from "./native_request.ts";
import { generatesOpenAi } from "./operation.ts";
import { withRateHeaders } from "./rate_headers.ts";
import { respond, type Wording } from "./respond.ts";
import { ChatBody } from "./schemas.ts";

export const chatCompletions: Route = {
  method: "POST",
  path: "/v1/chat/completions",
  recorded: true,
  operation: generatesOpenAi({
    summary: "Answers a conversation, as OpenAI has it",
    body: "ChatBody",
    object: "chat.completion, or chat.completion.chunk in a stream",
  }),
  schemas: { ChatBody },
  handler: (services) => async (c) => {
    const { raw } = c.req;
    const body = parseBody(ChatBody, withRateHeaders(await readJson(raw, services), raw.headers));
    c.var.record.prompt = body.messages;
    const promptTokens = await encodeMessages(body.messages, services);
    const asked = body.max_completion_tokens ?? body.max_tokens;
    const request = await nativeRequest(
      body,
      {
        prompt: undefined,
        prompt_tokens: promptTokens,
        max_new_tokens: asked ?? Math.max(1, services.engine.maxTokens - promptTokens.length),
        logprobs: body.logprobs === true ? body.top_logprobs ?? 0 : undefined,
        names: {
          prompt_tokens: "messages",
          max_new_tokens: body.max_tokens === asked ? "max_tokens" : "max_completion_tokens",
        },
      },
      services,
      c.var.record.arrivedMs,
    );
    const wording = chatWording(request.sampling.logprobs === null ? null : services.tokenizer);
    const includeUsage = body.stream_options?.include_usage ?? false;
    return respond(c, services, { request, wording, stream: body.stream ?? false, includeUsage });
  },
};

/** @throws {RequestError} 400 if the model takes no conversations, or not this one; 413 if it is too long. */
async function encodeMessages(
  messages: ChatBody["messages"],
  { tokenizer, chatTemplate, limits }: Pick<Services, "tokenizer" | "chatTemplate" | "limits">,
): Promise<readonly number[]> {
  if (tokenizer === null || chatTemplate === null) {
    const missing = tokenizer === null ? "tokenizer" : "chat_template in its tokenizer_config.json";
    throw new RequestError(400, `The model takes no conversations: it has no ${missing}. Use /v1/completions`, null);
  }
  let text: string;
  try {
    text = await chatTemplate.render(messages.map(chatMessage));
  } catch (error) {
    throw error instanceof ChatTemplateError ? new RequestError(400, error.message, "messages") : error;
  }
  checkLength(text, limits, "messages");
  return await tokenizer.encode(text, { addSpecialTokens: false });
}

function chatMessage({ role, content }: ChatBody["messages"][number]): ChatMessage {
  return {
    // Templates know the older name.
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : content.map(({ text }) => text).join(""),
  };
}

/** @param tokenizer `null` if no log-probabilities are wanted. */
function chatWording(tokenizer: ServedTokenizer | null): Wording {
  const logprobs = (tokens: readonly TextToken[]) => {
    if (tokenizer === null || tokens.length === 0) return null;
    const named = (token: number, logprob: number) => ({
      token: tokenizer.tokenText(token),
      logprob,
      bytes: Array.from(tokenizer.tokenBytes(token)),
    });
    const content = tokens.map(({ token, logprobs }) => ({
      ...named(token, logprobs!.logprob),
      top_logprobs: logprobs!.top.map((one) => named(one.token, one.logprob)),
    }));
    return { content, refusal: null };
  };
  const part = (
    delta: Readonly<Record<string, unknown>>,
    tokens: readonly TextToken[],
    finishReason: string | null,
  ) => ({
    index: 0,
    delta,
    logprobs: logprobs(tokens),
    finish_reason: finishReason,
  });
  return {
    prefix: "chatcmpl",
    object: "chat.completion",
    chunkObject: "chat.completion.chunk",
    whole: (tokens, finishReason) => ({
      index: 0,
      message: { role: "assistant", content: tokens.map(({ text }) => text).join(""), refusal: null },
      logprobs: logprobs(tokens),
      finish_reason: finishReason,
    }),
    start: () => part({ role: "assistant", content: "" }, [], null),
    token: (token) => token.text === "" && tokenizer === null ? null : part({ content: token.text }, [token], null),
    end: (finishReason) => part({}, [], finishReason),
  };
}
