import type { Handler } from "hono";
import type { GenerationStart, TextEvent } from "../engine/mod.ts";
import { eventStream, type ServerEvent } from "./event_stream.ts";
import { explainError } from "./explain_error.ts";
import { Answer } from "./generate_answer.ts";
import { generateRequest } from "./generate_request.ts";
import { readJson } from "./read_json.ts";
import { type RecordedEnv, type RequestRecord, tenths } from "./request_record.ts";
import { GenerateBody, parseBody } from "./schemas.ts";
import type { Services } from "./services.ts";
import { textEvents } from "./text_events.ts";

/** `POST /generate`: one JSON, or server-sent events. */
export function generate(services: Services): Handler<RecordedEnv> {
  return async (c) => {
    const { record } = c.var;
    const body = parseBody(GenerateBody, await readJson(c.req.raw, services));
    record.prompt = body.prompt ?? body.prompt_tokens;
    const request = await generateRequest(body, services, record.arrivedMs);
    record.promptTokens = request.promptTokens.length;

    const leaving = new AbortController();
    const signal = AbortSignal.any([c.req.raw.signal, leaving.signal]);
    const events = textEvents(services, request, record, signal);
    // The first event is the start: here the request waits for a slot, and may still be refused.
    const { choice } = (await events.next()).value as GenerationStart;
    const answer = new Answer(services, request, record.id, choice);
    c.header("X-Predicted-Ms", String(tenths(choice.predictedMs)));
    if (!body.stream) {
      const whole = answer.whole(await Array.fromAsync(events));
      c.header("X-Pruning-Rate", String(whole["pruning_rate"]));
      return c.json(whole);
    }

    record.streams = true;
    c.header("X-Pruning-Rate", String(answer.pruningRate));
    c.header("Content-Type", "text/event-stream");
    c.header("Cache-Control", "no-cache");
    return c.body(eventStream(serverEvents(services, answer, events, record), () => leaving.abort()));
  };
}

async function* serverEvents(
  services: Services,
  answer: Answer,
  events: AsyncIterable<TextEvent>,
  record: RequestRecord,
): AsyncGenerator<ServerEvent, void> {
  // Holds if the reader leaves while an event is on its way to him.
  record.outcome = "cancelled";
  try {
    yield { event: "start", data: answer.start() };
    for await (const event of events) {
      if (event.kind === "token") yield { event: "token", data: answer.token(event) };
      if (event.kind === "end") yield { event: "end", data: answer.end(event) };
    }
  } catch (error) {
    yield { event: "error", data: explainError(services, error, record).body };
  } finally {
    record.finish(200);
  }
}
