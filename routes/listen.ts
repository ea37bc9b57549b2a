import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { ClientGoneError, errorAnswer, RequestError } from "./errors.ts";

export interface HttpServer {
  readonly port: number;
  /** Takes no more connections; settles when the answers that are being sent are sent. */
  close(): Promise<void>;
}

/**
 * Serves a fetch handler. The signal of a request is aborted when its client leaves before the whole answer is sent.
 *
 * This is `node:http` and not `Deno.serve`, which (in Deno 2.9.6) does not notice a client who leaves while the answer
 * is awaited, if the request's body came in another packet than its head.
 *
 * @throws {Error} If the address cannot be listened on.
 */
export async function listen(
  handler: (request: Request) => Response | Promise<Response>,
  { hostname, port }: { readonly hostname: string; readonly port: number },
): Promise<HttpServer> {
  const server = createServer((incoming, outgoing) => void answer(handler, incoming, outgoing));
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

async function answer(
  handler: (request: Request) => Response | Promise<Response>,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
): Promise<void> {
  const leaving = new AbortController();
  outgoing.on("close", () => {
    if (!outgoing.writableFinished) leaving.abort(new ClientGoneError("The connection was closed"));
  });
  let response: Response;
  try {
    response = await handler(requestOf(incoming, leaving.signal));
  } catch (error) {
    const { status, body } = errorAnswer(error);
    response = Response.json(body, { status });
  }
  await send(response, incoming, outgoing, leaving.signal);
}

/** @throws {RequestError} If it is nothing that a handler can get, such as a CONNECT. */
function requestOf(incoming: IncomingMessage, signal: AbortSignal): Request {
  const { method = "GET", url = "/", rawHeaders } = incoming;
  try {
    const headers = new Headers();
    for (let i = 0; i < rawHeaders.length; i += 2) headers.append(rawHeaders[i]!, rawHeaders[i + 1]!);
    const body = method === "GET" || method === "HEAD" ? null : bodyOf(incoming);
    return new Request(new URL(`http://localhost${url.startsWith("/") ? url : "/"}`), {
      method,
      headers,
      body,
      signal,
    });
  } catch {
    throw new RequestError(400, "The request is malformed");
  }
}

/** A body that is read no faster than it is wanted. When its reader leaves, the rest is thrown away. */
function bodyOf(incoming: IncomingMessage): ReadableStream<Uint8Array<ArrayBuffer>> {
  let open = true;
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
      incoming.resume();
    },
    cancel() {
      open = false;
      incoming.resume();
    },
  });
}

/** Writes a response as fast as the client takes it, and leaves its body when the client has left. */
async function send(
  { status, headers, body }: Response,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  signal: AbortSignal,
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
      if (!outgoing.write(value)) await drained(outgoing, signal);
    }
    outgoing.end();
  } catch {
    outgoing.destroy(); // the body failed: the client sees that it is not whole
  } finally {
    signal.removeEventListener("abort", leave);
  }
}

/** Settles when more can be written, or nobody is there to take it. */
function drained(outgoing: ServerResponse, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    outgoing.once("drain", resolve);
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
