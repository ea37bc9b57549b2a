/** The queue is full. */
export class QueueFullError extends Error {
  override readonly name = "QueueFullError";
  /** @param retryAfterMs When the present work is expected to be done. */
  constructor(message: string, readonly retryAfterMs: number) {
    super(message);
  }
}

/** No allowed rate is predicted to meet the budget of a request that would rather be refused. */
export class BudgetError extends Error {
  override readonly name = "BudgetError";
  /** @param retryAfterMs When the present work is expected to be done. */
  constructor(message: string, readonly retryAfterMs: number) {
    super(message);
  }
}

/** The engine takes no more requests, or was stopped before this one was done. */
export class StoppingError extends Error {
  override readonly name = "StoppingError";
}

/** The engine cannot run requests now: what runs them is being opened again, could not be opened, or hangs. */
export class NotReadyError extends Error {
  override readonly name = "NotReadyError";
}

/** A step or the choice of a token failed; the cause says how. */
export class StepError extends Error {
  override readonly name = "StepError";
}
