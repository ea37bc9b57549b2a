import { findDuplicateKey } from "../models/duplicate_key.ts";
import type { BodyRoom } from "./body_room.ts";
import { ClientGoneError, RequestError } from "./errors.ts";

/** What a body may ask of us before we know what it says. */
export interface JsonLimits {
  readonly maxBodyBytes: number;
  /** Arrays and objects inside each other. */
  readonly maxJsonDepth: number;
}

/**
 * Values that a body can have besides numbers in lists: a conversation of the greatest length that the schemas take has
 * 25 thousand. What a body of nothing else would have, the schemas would look at for longer than others should wait.
 */
const MOST_VALUES = 1 << 15;

/** Room for a prompt of a hundred thousand tokens and more; no body of ours goes deeper than four. */
export const DEFAULT_JSON_LIMITS: JsonLimits = { maxBodyBytes: 1 << 20, maxJsonDepth: 16 };

/**
 * Reads a body as JSON. A form and plain text are read as JSON too, as `curl -d` and `fetch` call what they send so
 * unless told otherwise.
 *
 * @throws {RequestError} 413 if it has more bytes than allowed, counted as they come; 415 if it is of another type or
 * compressed; 400 if it is not JSON, nested too deeply, has too many values, a key twice in an object, or a lone
 * surrogate.
 * @throws {ClientGoneError} If it breaks off.
 * @throws {QueueFullError} If others need the room that it takes until it is whole.
 */
export async function readJson(
  request: Request,
  { limits, bodyRoom }: { readonly limits: JsonLimits; readonly bodyRoom: BodyRoom },
): Promise<unknown> {
  checkType(request.headers);
  const text = await readText(request, limits.maxBodyBytes, bodyRoom);
  const value = parsed(text);
  checkValue(value, limits.maxJsonDepth);
  const twice = findDuplicateKey(text);
  if (twice !== null) throw new RequestError(400, `${twice}: the object has this key twice`, twice);
  return value;
}

function checkType(headers: Headers): void {
  const encoding = headers.get("Content-Encoding") ?? "identity";
  if (encoding.toLowerCase() !== "identity") {
    throw new RequestError(415, "The body is compressed: it must be plain JSON", "Content-Encoding");
  }
  const [type = "", ...parameters] = (headers.get("Content-Type") ?? "application/json").toLowerCase().split(";");
  const known = /^(application\/(.+\+)?json|application\/x-www-form-urlencoded|text\/plain)$/.test(type.trim());
  const charsets = parameters.map((parameter) => parameter.trim()).filter((one) => one.startsWith("charset"));
  if (!known || !charsets.every((one) => /^charset="?(utf-?8|us-ascii)"?$/.test(one))) {
    throw new RequestError(415, "The body must be JSON in UTF-8, as application/json", "Content-Type");
  }
}

async function readText(request: Request, maxBytes: number, room: BodyRoom): Promise<string> {
  const tooLong = () => new RequestError(413, `The body is too long: the limit is ${maxBytes} bytes`);
  if (Number(request.headers.get("Content-Length")) > maxBytes) throw tooLong();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const leaving = new AbortController();
  const body = { bytes: 0, leave: (reason: Error) => leaving.abort(reason) };
  let text = "";
  try {
    for await (const piece of pieces(request, leaving.signal)) {
      room.take(body, piece.byteLength);
      if (body.bytes > maxBytes) throw tooLong();
      text += decoded(() => decoder.decode(piece, { stream: true }));
    }
  } finally {
    room.free(body);
  }
  leaving.signal.throwIfAborted();
  return text + decoded(() => decoder.decode());
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new RequestError(
      400,
      text.trim() === "" ? "The body is empty: it must be JSON" : "The body is not valid JSON",
    );
  }
}

/** Looks at every value; without recursion, which a deep one would exhaust. */
function checkValue(root: unknown, maxDepth: number): void {
  let level: { readonly value: unknown; readonly path: string }[] = [{ value: root, path: "" }];
  let values = 0;
  for (let depth = 0; level.length > 0; depth++) {
    const next: typeof level = [];
    const add = (value: unknown, key: string | number, path: string) => {
      if (++values > MOST_VALUES) {
        throw new RequestError(400, `The body has more than ${MOST_VALUES} values besides numbers in lists`);
      }
      next.push({ value, path: path === "" ? String(key) : `${path}.${key}` });
    };
    for (const { value, path } of level) {
      if (typeof value === "string" && !value.isWellFormed()) {
        throw new RequestError(400, `${path || "The body"}: a lone surrogate`, path || null);
      }
      if (typeof value !== "object" || value === null) continue;
      if (depth === maxDepth) {
        throw new RequestError(
          400,
          `The body is nested more than ${maxDepth} deep`,
          path.split(".")[0] || null,
        );
      }
      if (Array.isArray(value)) {
        // There can be hundreds of thousands of numbers, and nothing is wrong with them.
        value.forEach((inner, index) => typeof inner !== "number" && add(inner, index, path));
      } else for (const [key, inner] of Object.entries(value)) add(inner, key, path);
    }
    level = next;
  }
}

/** What comes of a body, until it is whole or is to come no more. */
async function* pieces({ body }: Request, leaving: AbortSignal): AsyncGenerator<Uint8Array, void> {
  if (body === null) return;
  const reader = body.getReader();
  leaving.addEventListener("abort", () => reader.cancel().catch(() => {}));
  try {
    while (true) {
      const { done, value } = await reader.read().catch((cause) => {
        throw cause instanceof RequestError ? cause : new ClientGoneError("The body broke off", { cause });
      });
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function decoded(decode: () => string): string {
  try {
    return decode();
  } catch {
    throw new RequestError(400, "The body is not valid UTF-8");
  }
}
