/** What an interrupted run left cannot be gone on with; the message says why. */
export class UnusableRunError extends Error {
  override readonly name = "UnusableRunError";
}
