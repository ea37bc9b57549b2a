import { createServer, type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { ConnectionPlaces } from "./connection_places.ts";
import { ClientGoneError, errorAnswer, refusalForBody, RequestError } from "./errors.ts";
import { requestOf } from "./incoming_request.ts";
import type { Refusal } from "./refusals.ts";
import { sendResponse } from "./send_response.ts";

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
  maxConnections: 384, // with all else that a process has open, below the 1,024 files that many systems allow
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

/**
 * Bytes that node holds for whoever reads a body or takes an answer, before it reads or asks for no more. It counts no
 * pieces: its default of 64 KiB can be as many chunks, of half a kilobyte of memory each.
 */
const HELD_BYTES = 512;

/** A request whose answer has not been sent. */
interface Exchange {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  /** Aborted when its client leaves, or is refused since the rest of the request is bad. */
  readonly leaving: AbortController;
}

/** Of one connection. */
interface UnderWay {
  /** In the order of the requests. */
  readonly exchanges: Set<Exchange>;
  /** Those of the requests that have come whole. */
  readonly whole: Set<IncomingMessage>;
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
    highWaterMark: HELD_BYTES,
    requireHostHeader: false, // it is asked for below, with an answer in our words
    headersTimeout: Math.min(limits.headerSeconds, limits.requestSeconds) * 1000,
    requestTimeout: limits.requestSeconds * 1000,
    keepAliveTimeout: limits.idleSeconds * 1000,
    // How often the three are looked at.
    connectionsCheckingInterval: Math.min(limits.headerSeconds, limits.idleSeconds, 5) * 200,
  });
  const open = new Set<Socket>();
  const connections = new WeakMap<Socket, UnderWay>();
  const places = new ConnectionPlaces<Socket>(limits.maxConnections);
  server.on("connection", (socket) => {
    open.add(socket);
    socket.on("close", () => {
      open.delete(socket);
      places.leave(socket);
      // Of the answers that wait for one before them, node tells nobody.
      for (const { leaving } of connections.get(socket)?.exchanges ?? []) leaving.abort(gone());
    });
    const closed = places.take(socket);
    if (closed === null) return;
    closed.destroy();
    // What was asked on it before is told of where it was handled.
    if (!connections.has(closed)) onRefusal(closed === socket ? NO_PLACE : NO_REQUEST);
  });
  server.on("request", (incoming, outgoing) => {
    const { socket } = incoming;
    if (socket.destroyed) return; // it was cut off, and this came in the same packet
    const underWay = connections.get(socket) ?? { exchanges: new Set(), whole: new Set() };
    if (underWay.exchanges.size === MOST_PIPELINED) {
      const message = `More than ${MOST_PIPELINED} requests came before their answers`;
      onRefusal(refusalOf(new RequestError(400, message), incoming));
      return void socket.destroy();
    }
    const exchange = { incoming, outgoing, leaving: new AbortController() };
    underWay.exchanges.add(exchange);
    connections.set(socket, underWay);
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
      if (!outgoing.writableFinished) exchange.leaving.abort(gone());
      incoming.off("end", isWhole);
      underWay.exchanges.delete(exchange);
      underWay.whole.delete(incoming);
      if (underWay.whole.size === 0) places.waits(socket);
    });
    void answer(handler, exchange, { stalledMs: limits.stalledSeconds * 1000, onRefusal });
  });
  // A client that waits for 100 Continue gets it when its body is wanted, or a refusal in its place.
  server.on("checkContinue", (incoming, outgoing) => server.emit("request", incoming, outgoing));
  server.on("checkExpectation", (incoming, outgoing) => server.emit("request", incoming, outgoing));
  server.on("clientError", (error, socket) => {
    const exchanges = [...connections.get(socket as Socket)?.exchanges ?? []];
    const refusal = brokenRequest(error);
    if (!refuse(refusal, socket as Socket, exchanges)) return;
    const broken = exchanges.find(({ incoming }) => !incoming.complete);
    // What is wrong with a body is told of where the body is read.
    if (broken !== undefined) broken.leaving.abort(refusal);
    else onRefusal(refusalOf(refusal, null));
  });
  // Node tells of it apart, and has let go of the connection: errors and its end are ours to look after.
  server.on("connect", (incoming, socket) => {
    socket.on("error", () => {});
    const refusal = new RequestError(405, "CONNECT is for proxies");
    const exchanges = [...connections.get(socket as Socket)?.exchanges ?? []];
    if (refuse(refusal, socket as Socket, exchanges)) onRefusal(refusalOf(refusal, incoming));
    (socket as Socket).destroySoon();
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
        // Node would wait for connections on which nothing was ever asked, and no longer looks at the clock for them. Clients
        // open such: Deno's fetch tries a second one while the first is in use.
        for (const socket of open) if ((connections.get(socket)?.exchanges.size ?? 0) === 0) socket.destroy();
      });
    },
  };
}

/** What is wrong where node can make no request of what comes. */
function brokenRequest({ code }: Error & { readonly code?: string }): RequestError {
  if (code === "HPE_HEADER_OVERFLOW") return new RequestError(431, "The headers are too long");
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return new RequestError(408, "The request took too long to arrive");
  return new RequestError(400, "The request is malformed");
}

/**
 * Answers to what no handler gets, and closes; in the middle of an answer it can only close.
 *
 * @returns Whether it answered.
 */
function refuse(refusal: RequestError, socket: Socket, exchanges: readonly Exchange[]): boolean {
  const answering = exchanges.some(({ outgoing }) => outgoing.headersSent && !outgoing.writableFinished);
  if (!socket.writable || answering) {
    socket.destroy();
    return false;
  }
  const { status, body } = errorAnswer(refusal);
  const text = JSON.stringify(body);
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: application/json\r\n` +
      // All methods that some path takes.
      (status === 405 ? "Allow: GET, HEAD, POST\r\n" : "") +
      `Content-Length: ${text.length}\r\nConnection: close\r\n\r\n${text}`,
  );
  return true;
}

const gone = () => new ClientGoneError("The connection was closed");

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
  { incoming, outgoing, leaving }: Exchange,
  { stalledMs, onRefusal }: { readonly stalledMs: number; readonly onRefusal: (refusal: Refusal) => void },
): Promise<void> {
  let response: Response;
  try {
    // Awaited, so that the packet is read by then: when its rest is bad, that is what is answered and counted.
    response = await handler(await Promise.try(requestOf, incoming, outgoing, leaving.signal));
    const refusal = refusalForBody(leaving.signal);
    // The handler has not looked at its body.
    if (refusal !== null && response.ok) onRefusal(refusalOf(refusal, incoming));
  } catch (caught) {
    const error = refusalForBody(leaving.signal) ?? caught;
    onRefusal(refusalOf(error, incoming));
    const { status, body } = errorAnswer(error);
    response = Response.json(body, { status });
  }
  await sendResponse(response, incoming, outgoing, { signal: leaving.signal, stalledMs });
}
