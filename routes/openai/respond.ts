import type { Context } from "hono";
import type { GenerationEnd, GenerationStart, TextEvent, TextRequest, TextToken } from "../../engine/mod.ts";
import { textStream } from "../event_stream.ts";
import { explainError } from "../explain_error.ts";
import { Answer } from "../generate_answer.ts";
import { type RecordedEnv, type RequestRecord, tenths } from "../request_record.ts";
import type { Services } from "../services.ts";
import { textEvents } from "../text_events.ts";

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
  { request, wording, stream, includeUsage }: Wanted,
): Promise<Response> {
  const { record } = c.var;
  record.promptTokens = request.promptTokens.length;
  const leaving = new AbortController();
  const signal = AbortSignal.any([c.req.raw.signal, leaving.signal]);
  const events = textEvents(services, request, record, signal);
  // The first event is the start: here the request waits for a slot, and may still be refused.
  const { choice } = (await events.next()).value as GenerationStart;
  const answer = new Answer(services, request, record.id, choice);
  const head = {
    id: `${wording.prefix}-${record.id}`,
    created: Math.floor(Date.now() / 1000),
    model: services.model.name,
  };
  c.header("X-Predicted-Ms", String(tenths(choice.predictedMs)));
  if (!stream) {
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

  record.streams = true;
  c.header("X-Pruning-Rate", String(answer.pruningRate));
  c.header("Content-Type", "text/event-stream");
  c.header("Cache-Control", "no-cache");
  const chunks = chunksOf({ answer, request, wording, includeUsage }, head, events);
  return c.body(textStream(dataEvents(services, chunks, record), () => leaving.abort()));
}

/** The documents of a stream. */
async function* chunksOf(
  { answer, request, wording, includeUsage }: Omit<Wanted, "stream"> & { readonly answer: Answer },
  head: Readonly<Record<string, unknown>>,
  events: AsyncIterable<TextEvent>,
): AsyncGenerator<unknown, void> {
  const chunk = (choices: readonly Choice[], more = {}) => ({
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
}

/** Documents as data events. An error is the last of them, and then there is no `[DONE]`. */
async function* dataEvents(
  services: Services,
  chunks: AsyncIterable<unknown>,
  record: RequestRecord,
): AsyncGenerator<string, void> {
  // Holds if the reader leaves while an event is on its way to him.
  record.outcome = "cancelled";
  try {
    for await (const chunk of chunks) yield `data: ${JSON.stringify(chunk)}\n\n`;
    yield "data: [DONE]\n\n";
  } catch (error) {
    yield `data: ${JSON.stringify(explainError(services, error, record).body)}\n\n`;
  } finally {
    record.finish(200);
  }
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
