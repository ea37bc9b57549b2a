import type { IncomingMessage, ServerResponse } from "node:http";
import { RequestError } from "./errors.ts";
import { PieceCount } from "./piece_count.ts";

/**
 * Headers that a request may have; Apache takes a hundred. `Request` takes time for the square of their number: 2,800
 * short ones, in 15 kB, held the event loop for 0.3 s. Node leaves out what comes after the thousandth and says nothing.
 */
const MOST_HEADERS = 128;

/**
 * What a client sent, as handlers get it. The path is of a host of our own; the client's is the header `Host`.
 *
 * @param signal The request's: aborted when the client leaves, or is refused for its body; the reason is then the body's.
 * @throws {RequestError} If it is nothing that a handler can get, such as a TRACE, names no host or two, or has a body in
 * two codings, or in one that its version does not have; 417 if it expects what we do not know; 431 if it has too many
 * headers.
 */
export function requestOf(incoming: IncomingMessage, outgoing: ServerResponse, signal: AbortSignal): Request {
  const { method = "GET", url: target = "/", rawHeaders } = incoming;
  if (rawHeaders.length > 2 * MOST_HEADERS) {
    throw new RequestError(431, `There are more than ${MOST_HEADERS} headers`);
  }
  const expected = incoming.headers.expect;
  if (expected !== undefined && expected.toLowerCase() !== "100-continue") {
    throw new RequestError(417, "The only expectation that is met is 100-continue", "Expect");
  }
  // RFC 9110, section 10.1.1: an HTTP/1.0 client does not wait for 100 Continue.
  const waits = expected !== undefined && incoming.httpVersion !== "1.0";
  try {
    const headers = new Headers();
    for (let i = 0; i < rawHeaders.length; i += 2) headers.append(rawHeaders[i]!, rawHeaders[i + 1]!);
    const host = headers.get("Host");
    if (host?.includes(",") || (host === null && incoming.httpVersion !== "1.0")) throw new TypeError("not one host");
    const coding = headers.get("Transfer-Encoding");
    if (coding?.includes(",")) throw new TypeError("a coding before chunked");
    // RFC 9112, section 6.1: who does not know codings, on the way here, has taken the body for another request.
    if (coding !== null && incoming.httpVersion === "1.0") throw new TypeError("a coding in HTTP/1.0");
    const absolute = /^https?:\/\//i.test(target);
    if (!absolute && !target.startsWith("/")) throw new TypeError("no path");
    const url = new URL(absolute ? target : `http://localhost${target}`);
    // RFC 9112, section 3.2.2: a target with a host of its own is the one that counts.
    if (absolute) headers.set("Host", url.host);
    const body = method === "GET" || method === "HEAD" ? null : bodyOf(incoming, signal, () => {
      if (waits) outgoing.writeContinue();
    });
    return new Request(new URL(`http://localhost${url.pathname}${url.search}`), { method, headers, body, signal });
  } catch {
    throw new RequestError(400, "The request is malformed");
  }
}

/** Bytes of a body that are held for its reader, besides what a read of the socket brings. */
const READ_AHEAD = 4096;

/**
 * A body that is read little faster than it is wanted. When its reader leaves, the rest is thrown away; one that comes in
 * too many tiny pieces fails, and no more of it is read.
 *
 * @param onWanted Called when it is wanted first.
 */
function bodyOf(
  incoming: IncomingMessage,
  signal: AbortSignal,
  onWanted: () => void,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  let open = true;
  let wanted = false;
  const pieces = new PieceCount();
  return new ReadableStream({
    start(controller) {
      const end = (finish: () => void) => {
        if (open) finish();
        open = false;
      };
      incoming.on("data", (piece: Uint8Array) => {
        if (pieces.add(piece)) {
          incoming.socket.pause();
          end(() => controller.error(new RequestError(400, "The body comes in too many tiny pieces")));
        }
        if (!open) return;
        controller.enqueue(new Uint8Array(piece));
        if (controller.desiredSize! <= -READ_AHEAD) incoming.pause();
      });
      incoming.on("end", () => end(() => controller.close()));
      const breakOff = () => controller.error(signal.aborted ? signal.reason : new Error("The body broke off"));
      incoming.on("error", () => end(breakOff));
      incoming.on("close", () => end(breakOff));
    },
    pull() {
      if (!wanted) onWanted();
      wanted = true;
      incoming.resume();
    },
    cancel() {
      open = false;
      incoming.resume();
    },
  }, { highWaterMark: 0, size: ({ byteLength }) => byteLength });
}
