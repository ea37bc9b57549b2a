import { type ErrorAnswer, errorAnswer } from "./errors.ts";
import type { RequestRecord } from "./request_record.ts";
import type { Services } from "./services.ts";

/** Decides the answer to an error, notes it in the request's record, and logs it if the fault is ours. */
export function explainError(
  { log }: Pick<Services, "log">,
  error: unknown,
  record: RequestRecord | undefined,
): ErrorAnswer {
  const answer = errorAnswer(error);
  record?.fail(answer.outcome);
  if (answer.status === 500) log({ event: "error", id: record?.id ?? null, error: described(error) });
  return answer;
}

function described(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return `${error.stack ?? error}${error.cause === undefined ? "" : `\ncaused by ${described(error.cause)}`}`;
}
