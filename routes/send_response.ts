import type { IncomingMessage, ServerResponse } from "node:http";
import { ClientGoneError } from "./errors.ts";

/** Writes a response as fast as the client takes it, and leaves its body when the client has left or takes nothing. */
export async function sendResponse(
  { status, headers, body }: Response,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  { signal, stalledMs }: { readonly signal: AbortSignal; readonly stalledMs: number },
): Promise<void> {
  const reader = body?.getReader();
  const leave = () => void reader?.cancel(signal.reason).catch(() => {});
  if (signal.aborted) return leave();
  signal.addEventListener("abort", leave, { once: true });
  for (const [name, value] of headers) outgoing.appendHeader(name, value);
  // What is left of the body would be taken for the next request.
  if (!incoming.complete) outgoing.setHeader("Connection", "close");
  outgoing.writeHead(status);
  try {
    while (reader !== undefined && !signal.aborted) {
      const { done, value } = await reader.read();
      if (done) break;
      if (!outgoing.write(value)) await taken("drain", outgoing, signal, stalledMs);
    }
    const sent = taken("finish", outgoing, signal, stalledMs);
    outgoing.end();
    await sent;
  } catch (error) {
    // The body failed, or nobody takes it: the client sees that it is not whole.
    outgoing.destroy();
    await reader?.cancel(error).catch(() => {});
  } finally {
    signal.removeEventListener("abort", leave);
  }
}

/**
 * Settles when the client has taken what was written, or has left.
 *
 * @throws {ClientGoneError} If it takes too long.
 */
function taken(event: "drain" | "finish", outgoing: ServerResponse, signal: AbortSignal, ms: number): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => end(() => reject(new ClientGoneError("The client takes nothing"))), ms);
    const settle = () => end(resolve);
    const end = (finish: () => void) => {
      clearTimeout(timer);
      outgoing.off(event, settle);
      signal.removeEventListener("abort", settle);
      finish();
    };
    outgoing.once(event, settle);
    signal.addEventListener("abort", settle, { once: true });
  });
}
