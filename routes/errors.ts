import { BudgetError, NotReadyError, QueueFullError, StepError, StoppingError } from "../engine/mod.ts";
import { shortened } from "./shortened.ts";

/** What is wrong with a request, as HTTP says it. */
export type RefusalStatus = 400 | 401 | 403 | 404 | 405 | 408 | 413 | 415 | 417 | 422 | 431;

/** A request that we refuse; the message is for the caller. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  /** @param param The field at fault. */
  constructor(readonly status: RefusalStatus, message: string, readonly param: string | null = null) {
    super(message);
  }
}

/** What a request was refused for while it was handled, by its signal; the caller was told that and nothing else. */
export function refusalForBody({ reason }: AbortSignal): RequestError | null {
  return reason instanceof RequestError ? reason : null;
}

/** The caller left before the answer. */
export class ClientGoneError extends Error {
  override readonly name = "ClientGoneError";
}

/** How requests that got no full answer ended, as metrics and logs name it. */
export type FailureOutcome = "invalid" | "rejected" | "cancelled" | "error";

/** What the caller is told about an error: the body is OpenAI's, without stacks or paths. */
export interface ErrorAnswer {
  readonly status: RefusalStatus | 429 | 499 | 500 | 503;
  readonly body: { readonly error: { readonly type: string; readonly message: string; readonly param: string | null } };
  readonly retryAfterSeconds: number | null;
  readonly outcome: FailureOutcome;
}

/** Longest message and name of a field that are told: both can hold what the caller sent. */
const [MOST_MESSAGE, MOST_PARAM] = [1000, 200];

const REFUSAL_TYPES: { readonly [status in RefusalStatus]?: string } = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
};

/** The one place that decides what an error means to the caller. */
export function errorAnswer(error: unknown): ErrorAnswer {
  const answer = (
    status: ErrorAnswer["status"],
    type: string,
    outcome: FailureOutcome,
    { message, param = null, retryAfterMs }: { message: string; param?: string | null; retryAfterMs?: number },
  ): ErrorAnswer => ({
    status,
    body: { error: { type, message: shortened(message, MOST_MESSAGE), param: param && shortened(param, MOST_PARAM) } },
    retryAfterSeconds: retryAfterMs === undefined ? null : Math.max(1, Math.ceil(retryAfterMs / 1000)),
    outcome,
  });
  if (error instanceof RequestError) {
    return answer(error.status, REFUSAL_TYPES[error.status] ?? "invalid_request_error", "invalid", error);
  }
  if (error instanceof QueueFullError) return answer(429, "overloaded_error", "rejected", error);
  if (error instanceof BudgetError) return answer(429, "budget_error", "rejected", error);
  if (error instanceof StoppingError || error instanceof NotReadyError) {
    return answer(503, "unavailable_error", "rejected", error);
  }
  // 499 is nginx's code for it; nobody reads the answer, the metrics do.
  if (error instanceof ClientGoneError) return answer(499, "cancelled_error", "cancelled", error);
  if (error instanceof StepError) return answer(500, "server_error", "error", error);
  return answer(500, "server_error", "error", { message: "The service failed to answer" });
}
