import type { Context } from "hono";
import type { GenerationEnd, TextEvent, TextRequest, TextToken } from "../../engine/mod.ts";
import type { Answer } from "../generate_answer.ts";
import type { RecordedEnv } from "../request_record.ts";
import type { Services } from "../services.ts";
import { startAnswer } from "../start_answer.ts";

/** One entry of `choices`. */
export type Choice = Readonly<Record<string, unknown>>;

/** How one of the two APIs words an answer. */
export interface Wording {
  /** What ids begin with. */
  readonly prefix: string;
  /** `object` of a whole answer, and of a part of one. */
  readonly object: string;
  readonly chunkObject: string;
  whole(tokens: readonly TextToken[], finishReason: "stop" | "length"): Choice;
  /** The part before the first token, if there is one. */
  start(): Choice | null;
  /** `null` if there is nothing to say of the token. */
  token(token: TextToken): Choice | null;
  end(finishReason: "stop" | "length"): Choice;
}

interface Wanted {
  readonly request: TextRequest;
  readonly wording: Wording;
  readonly stream: boolean;
  readonly includeUsage: boolean;
}

/** Runs a request and answers it, as one document or as data events up to `[DONE]`. */
export async function respond(
  c: Context<RecordedEnv>,
  services: Services,
  { request, wording, stream: streams, includeUsage }: Wanted,
): Promise<Response> {
  const { answer, events, stream } = await startAnswer(c, services, request);
  const head = {
    id: `${wording.prefix}-${c.var.record.id}`,
    created: Math.floor(Date.now() / 1000),
    model: services.model.name,
  };
  if (streams) return stream(dataEvents({ answer, request, wording, includeUsage }, head, events), dataEvent);

  const rest = await Array.fromAsync(events);
  const end = rest.at(-1) as GenerationEnd;
  const tokens = rest.filter((event) => event.kind === "token");
  const ended = answer.end(end);
  c.header("X-Pruning-Rate", String(ended["pruning_rate"]));
  return c.json({
    ...head,
    object: wording.object,
    choices: [wording.whole(tokens, finishReason(end))],
    usage: usage(request, end),
    espalier: facts(ended),
  });
}

/** A stream's chunks as data events. After an error there is no `[DONE]`. */
async function* dataEvents(
  { answer, request, wording, includeUsage }: Omit<Wanted, "stream"> & { readonly answer: Answer },
  head: Readonly<Record<string, unknown>>,
  events: AsyncIterable<TextEvent>,
): AsyncGenerator<string, void> {
  const chunk = (choices: readonly Choice[], more = {}) =>
    dataEvent({
      ...head,
      object: wording.chunkObject,
      choices,
      ...(includeUsage && { usage: null }),
      ...more,
    });
  const start = wording.start();
  if (start !== null) yield chunk([start], { espalier: facts(answer.start()) });
  for await (const event of events) {
    if (event.kind === "token") {
      const choice = wording.token(event);
      if (choice !== null) yield chunk([choice]);
    }
    if (event.kind === "end") {
      yield chunk([wording.end(finishReason(event))], { espalier: facts(answer.end(event)) });
      if (includeUsage) yield chunk([], { usage: usage(request, event) });
    }
  }
  yield "data: [DONE]\n\n";
}

function dataEvent(document: unknown): string {
  return `data: ${JSON.stringify(document)}\n\n`;
}

/** OpenAI knows no end by a budget; `espalier.finish_reason` says so. */
function finishReason({ finishReason }: GenerationEnd): "stop" | "length" {
  return finishReason === "stop" ? "stop" : "length";
}

function usage({ promptTokens }: TextRequest, { completionTokens }: GenerationEnd): Record<string, number> {
  return {
    prompt_tokens: promptTokens.length,
    completion_tokens: completionTokens,
    total_tokens: promptTokens.length + completionTokens,
  };
}

/** What our own API says besides. */
function facts({ id: _id, model: _model, usage: _usage, ...rest }: Record<string, unknown>): Record<string, unknown> {
  return rest;
}
