import type { IncomingMessage, ServerResponse } from "node:http";
import { ClientGoneError } from "./errors.ts";

/**
 * What is read on of a body that nobody wants: bytes, and time. Everybody can ask for that much; the connection can be
 * closed for others all the while, since no whole request is in it.
 */
const [MOST_DROPPED, DROPPING_MS] = [8 << 20, 1000];

/** Bytes that a piece counts for at least: reading one costs about as much as so many bytes. */
const PIECE_BYTES = 1024;

/**
 * Writes a response as fast as the client takes it, and leaves its body when the client has left or takes nothing. Where
 * the request's body has not come whole, the rest is dropped for a while: a client that is cut off while it sends does not
 * get to see why.
 */
export async function sendResponse(
  response: Response,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  { signal, stalledMs }: { readonly signal: AbortSignal; readonly stalledMs: number },
): Promise<void> {
  const early = !incoming.complete;
  const sized = early ? await withLength(response).catch(() => null) : response;
  if (sized === null) return void outgoing.destroy();
  const { status, headers, body } = sized;
  const reader = body?.getReader();
  const leave = () => void reader?.cancel(signal.reason).catch(() => {});
  if (signal.aborted) return leave();
  signal.addEventListener("abort", leave, { once: true });
  for (const [name, value] of headers) outgoing.appendHeader(name, value);
  // What is left of the body would be taken for the next request.
  if (early) outgoing.setHeader("Connection", "close");
  outgoing.writeHead(status);
  try {
    while (reader !== undefined && !signal.aborted) {
      const { done, value } = await reader.read();
      if (done) break;
      if (!outgoing.write(value)) await taken("drain", outgoing, signal, stalledMs);
    }
    if (early) {
      outgoing.flushHeaders();
      await dropRest(incoming, signal);
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
    const wait = () =>
      setTimeout(() => {
        // It cannot be taken yet: the answer to an earlier request comes first.
        if (outgoing.socket === null) timer = wait();
        else end(() => reject(new ClientGoneError("The client takes nothing")));
      }, ms);
    let timer = wait();
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

/**
 * The same response with its length, so that the client knows it whole before the connection is closed. Nothing of ours
 * streams before the request is whole.
 */
async function withLength(response: Response): Promise<Response> {
  if (response.body === null) return response;
  const bytes = await response.bytes();
  const headers = new Headers(response.headers);
  headers.set("Content-Length", String(bytes.length));
  return new Response(bytes, { status: response.status, headers });
}

/** Settles when a body has been dropped to its end, or as much of it as can be asked for, or the client has left. */
function dropRest(incoming: IncomingMessage, signal: AbortSignal): Promise<void> {
  // It has come in too many pieces already.
  if (incoming.socket.isPaused()) return Promise.resolve();
  return new Promise((resolve) => {
    let left = MOST_DROPPED;
    const timer = setTimeout(() => end(), DROPPING_MS);
    const drop = (piece: Uint8Array) => {
      left -= Math.max(piece.byteLength, PIECE_BYTES);
      if (left < 0) end();
    };
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      incoming.socket.pause();
      resolve();
    };
    signal.addEventListener("abort", end, { once: true });
    // Whoever read it before would have it wait until more is wanted.
    incoming.removeAllListeners("data").on("data", drop).once("close", end);
    incoming.resume();
  });
}
