import type { Context } from "hono";
import type { GenerationStart, TextEvent, TextRequest } from "../engine/mod.ts";
import type { ErrorAnswer } from "./errors.ts";
import { explainError } from "./explain_error.ts";
import { Answer } from "./generate_answer.ts";
import { type RecordedEnv, tenths } from "./request_record.ts";
import type { Services } from "./services.ts";
import { textEvents } from "./text_events.ts";
import { textStream } from "./text_stream.ts";

/** An answer whose request has its slot; how it is worded is the caller's. */
export interface StartedAnswer {
  readonly answer: Answer;
  /** What comes after the start. */
  readonly events: AsyncIterable<TextEvent>;
  /**
   * Answers with server-sent events, and ends the record with them.
   *
   * @param failed The last of them if those given fail.
   */
  readonly stream: (
    serverEvents: AsyncIterable<string>,
    failed: (body: ErrorAnswer["body"]) => string,
  ) => Response;
}

/** Runs a request until it has its slot: up to then it waits, and may still be refused. */
export async function startAnswer(
  c: Context<RecordedEnv>,
  services: Services,
  request: TextRequest,
): Promise<StartedAnswer> {
  const { record } = c.var;
  record.promptTokens = request.promptTokens.length;
  const leaving = new AbortController();
  const signal = AbortSignal.any([c.req.raw.signal, leaving.signal]);
  const events = textEvents(services, request, record, signal);
  const { choice } = (await events.next()).value as GenerationStart;
  const answer = new Answer(services, request, record.id, choice);
  c.header("X-Predicted-Ms", String(tenths(choice.predictedMs)));

  const stream: StartedAnswer["stream"] = (serverEvents, failed) => {
    record.streams = true;
    c.header("X-Pruning-Rate", String(answer.pruningRate));
    c.header("Content-Type", "text/event-stream");
    c.header("Cache-Control", "no-cache");
    const recorded = async function* (): AsyncGenerator<string, void> {
      // Holds if the reader leaves while an event is on its way to him.
      record.outcome = "cancelled";
      try {
        yield* serverEvents;
      } catch (error) {
        yield failed(explainError(services, error, record).body);
      } finally {
        record.finish(200);
      }
    };
    return c.body(textStream(recorded(), () => leaving.abort()));
  };
  return { answer, events, stream };
}
