import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { ConnectionPlaces } from "./connection_places.ts";
import { ClientGoneError, errorAnswer, RequestError } from "./errors.ts";
import type { Refusal } from "./refusals.ts";

/** What connections may take of us. */
export interface ConnectionLimits {
  /** Connections at once; where there are more, one without a whole request has to go ({@linkcode ConnectionPlaces}). */
  readonly maxConnections: number;
  /** Bytes of a request's line and headers together. */
  readonly maxHeaderBytes: number;
  /** From a connection's first moment, or the last answer, to the end of a request's headers. */
  readonly headerSeconds: number;
  /** From the first byte of a request to its last. */
  readonly requestSeconds: number;
  /** For how long a connection stays open between requests. */
  readonly idleSeconds: number;
  /** For how long a client may take nothing of an answer that waits for it. */
  readonly stalledSeconds: number;
}

export const DEFAULT_CONNECTION_LIMITS: ConnectionLimits = {
  maxConnections: 512,
  maxHeaderBytes: 16_384,
  headerSeconds: 10,
  requestSeconds: 30,
  idleSeconds: 60,
  stalledSeconds: 30,
};

export interface ListenOptions {
  readonly hostname: string;
  readonly port: number;
  readonly limits?: Partial<ConnectionLimits>;
  /** Called when something is refused that the handler does not get to see. */
  readonly onRefusal?: (refusal: Refusal) => void;
}

export interface HttpServer {
  readonly port: number;
  /** Takes no more connections; settles when the answers that are being sent are sent. */
  close(): Promise<void>;
}

/**
 * Requests of one connection that can be under way; who sends more without waiting for answers is cut off. Nobody we know
 * sends even two, and fifty thousand in two mebibytes held the event loop for four seconds and took 700 MiB.
 */
const MOST_PIPELINED = 32;

/** Of one connection. */
interface AnswersUnderWay {
  count: number;
  /** Those of the requests that have come whole. */
  readonly whole: Set<IncomingMessage>;
  last: ServerResponse;
}

/** What comes of connections that were closed before a request came. */
const NO_PLACE: Refusal = {
  ...{ status: 503, outcome: "rejected", method: null, path: null },
  message: "A connection was closed, since all others have requests in them",
};
const NO_REQUEST: Refusal = {
  ...{ status: 408, outcome: "invalid", method: null, path: null },
  message: "A connection was closed, since another needed its place and no request had come",
};

type FetchHandler = (request: Request) => Response | Promise<Response>;

/**
 * Serves a fetch handler. The signal of a request is aborted when its client leaves before the whole answer is sent, or
 * takes nothing of it for too long.
 *
 * This is `node:http` and not `Deno.serve`, which (in Deno 2.9.6) does not notice a client who leaves while the answer
 * is awaited, if the request's body came in another packet than its head.
 *
 * @throws {Error} If the address cannot be listened on.
 */
export async function listen(
  handler: FetchHandler,
  { hostname, port, limits: given = {}, onRefusal = () => {} }: ListenOptions,
): Promise<HttpServer> {
  const limits = { ...DEFAULT_CONNECTION_LIMITS, ...given };
  const server = createServer({
    maxHeaderSize: limits.maxHeaderBytes,
    requireHostHeader: false, // it is asked for below, with an answer in our words
    headersTimeout: Math.min(limits.headerSeconds, limits.requestSeconds) * 1000,
    requestTimeout: limits.requestSeconds * 1000,
    keepAliveTimeout: limits.idleSeconds * 1000,
    // How often the three are looked at.
    connectionsCheckingInterval: Math.min(limits.headerSeconds, limits.idleSeconds, 5) * 200,
  });
  const answers = new WeakMap<Socket, AnswersUnderWay>();
  const places = new ConnectionPlaces<Socket>(limits.maxConnections);
  server.on("connection", (socket) => {
    socket.on("close", () => places.leave(socket));
    const closed = places.take(socket);
    if (closed === null) return;
    closed.destroy();
    // What was asked on it before is told of where it was handled.
    if (!answers.has(closed)) onRefusal(closed === socket ? NO_PLACE : NO_REQUEST);
  });
  server.on("request", (incoming, outgoing) => {
    const { socket } = incoming;
    if (socket.destroyed) return; // it was cut off, and this came in the same packet
    const underWay = answers.get(socket) ?? { count: 0, whole: new Set(), last: outgoing };
    if (underWay.count === MOST_PIPELINED) {
      const message = `More than ${MOST_PIPELINED} requests came before their answers`;
      onRefusal(refusalOf(new RequestError(400, message), incoming));
      return void socket.destroy();
    }
    underWay.count++;
    underWay.last = outgoing;
    answers.set(socket, underWay);
    const isWhole = () => {
      underWay.whole.add(incoming);
      places.works(socket);
    };
    if (!hasBody(incoming)) isWhole();
    else {
      if (underWay.whole.size === 0) places.waits(socket);
      incoming.once("end", isWhole);
    }
    outgoing.on("close", () => {
      incoming.off("end", isWhole);
      underWay.count--;
      underWay.whole.delete(incoming);
      if (underWay.whole.size === 0) places.waits(socket);
    });
    void answer(handler, incoming, outgoing, { stalledMs: limits.stalledSeconds * 1000, onRefusal });
  });
  // A client that waits for leave to send its body gets it when the body is wanted, or a refusal in its place.
  server.on("checkContinue", (incoming, outgoing) => server.emit("request", incoming, outgoing));
  server.on("checkExpectation", (incoming, outgoing) => server.emit("request", incoming, outgoing));
  server.on("clientError", (error, socket) => {
    const refusal = refuse(error, socket as Socket, answers.get(socket as Socket)?.last);
    if (refusal !== null) onRefusal(refusal);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, hostname, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      return new Promise((resolve) => {
        server.close(() => resolve());
        server.closeIdleConnections();
      });
    },
  };
}

/**
 * Answers to what is no HTTP, too long or too slow, and closes; in the middle of an answer it can only close.
 *
 * @returns What it answered; `null` if it only closed.
 */
function refuse(
  error: Error & { readonly code?: string },
  socket: Socket,
  answer: ServerResponse | undefined,
): Refusal | null {
  if (!socket.writable || (answer?.headersSent && !answer.writableFinished)) {
    socket.destroy();
    return null;
  }
  const refusal = error.code === "HPE_HEADER_OVERFLOW"
    ? new RequestError(431, "The headers are too long")
    : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
    ? new RequestError(408, "The request took too long to arrive")
    : new RequestError(400, "The request is malformed");
  const { status, body } = errorAnswer(refusal);
  const text = JSON.stringify(body);
  const reason = { 400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large" }[status as 400];
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n` +
      `Connection: close\r\n\r\n${text}`,
  );
  return refusalOf(refusal, null);
}

/** Whether something is to come after the head of a request. */
function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}

function refusalOf(error: unknown, incoming: IncomingMessage | null): Refusal {
  const { status, outcome, body } = errorAnswer(error);
  const path = incoming?.url?.split("?")[0] ?? null;
  return { status, outcome, message: body.error.message, method: incoming?.method ?? null, path };
}

async function answer(
  handler: FetchHandler,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  { stalledMs, onRefusal }: { readonly stalledMs: number; readonly onRefusal: (refusal: Refusal) => void },
): Promise<void> {
  const leaving = new AbortController();
  outgoing.on("close", () => {
    if (!outgoing.writableFinished) leaving.abort(new ClientGoneError("The connection was closed"));
  });
  let response: Response;
  try {
    response = await handler(requestOf(incoming, outgoing, leaving.signal));
  } catch (error) {
    onRefusal(refusalOf(error, incoming));
    const { status, body } = errorAnswer(error);
    response = Response.json(body, { status });
  }
  await send(response, incoming, outgoing, { signal: leaving.signal, stalledMs });
}

/**
 * @throws {RequestError} If it is nothing that a handler can get, such as a CONNECT, names no host or two, or has a body in
 * two codings, or in one that its version does not have; 417 if it expects what we do not know.
 */
function requestOf(incoming: IncomingMessage, outgoing: ServerResponse, signal: AbortSignal): Request {
  const { method = "GET", url: target = "/", rawHeaders } = incoming;
  const expected = incoming.headers.expect;
  const waits = expected?.toLowerCase() === "100-continue";
  if (expected !== undefined && !waits) {
    throw new RequestError(417, "The only expectation that is met is 100-continue", "Expect");
  }
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
    const body = method === "GET" || method === "HEAD" ? null : bodyOf(incoming, () => {
      if (waits) outgoing.writeContinue();
    });
    return new Request(new URL(`http://localhost${url.pathname}${url.search}`), { method, headers, body, signal });
  } catch {
    throw new RequestError(400, "The request is malformed");
  }
}

/**
 * A body that is read no faster than it is wanted. When its reader leaves, the rest is thrown away.
 *
 * @param onWanted Called when it is wanted first.
 */
function bodyOf(incoming: IncomingMessage, onWanted: () => void): ReadableStream<Uint8Array<ArrayBuffer>> {
  let open = true;
  let wanted = false;
  return new ReadableStream({
    start(controller) {
      const end = (finish: () => void) => {
        if (open) finish();
        open = false;
      };
      incoming.on("data", (piece: Uint8Array) => {
        if (!open) return;
        controller.enqueue(new Uint8Array(piece));
        incoming.pause();
      });
      incoming.on("end", () => end(() => controller.close()));
      incoming.on("error", (error) => end(() => controller.error(error)));
      incoming.on("close", () => end(() => controller.error(new Error("The body broke off"))));
      incoming.pause();
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
  }, { highWaterMark: 0 });
}

/** Writes a response as fast as the client takes it, and leaves its body when the client has left or takes nothing. */
async function send(
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
