import { generateText, type TextEvent, type TextRequest } from "../engine/mod.ts";
import { ClientGoneError } from "./errors.ts";
import type { RequestRecord } from "./request_record.ts";
import type { Services } from "./services.ts";

/** Runs a request and notes in its record what comes. @throws {ClientGoneError} If the signal ended it. */
export async function* textEvents(
  { engine, tokenizer }: Pick<Services, "engine" | "tokenizer">,
  request: TextRequest,
  record: RequestRecord,
  signal: AbortSignal,
): AsyncGenerator<TextEvent, void> {
  try {
    for await (const event of generateText(engine, request, tokenizer, signal)) {
      record.note(event);
      yield event;
    }
  } catch (error) {
    throw signal.aborted ? new ClientGoneError("The client left before the answer") : error;
  }
}
