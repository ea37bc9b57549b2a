import { ClientGoneError, RequestError } from "./errors.ts";

/**
 * Reads a body as JSON, whatever its content type: `curl -d` calls it a form unless told otherwise.
 *
 * @throws {RequestError} 413 if it has more than `maxBytes`, counted as they come; 400 if it is not JSON.
 * @throws {ClientGoneError} If it breaks off.
 */
export async function readJson(request: Request, maxBytes: number): Promise<unknown> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  let size = 0;
  for await (const piece of pieces(request)) {
    size += piece.byteLength;
    if (size > maxBytes) throw new RequestError(413, `The body is too long: the limit is ${maxBytes} bytes`);
    text += decoded(() => decoder.decode(piece, { stream: true }));
  }
  text += decoded(() => decoder.decode());
  try {
    return JSON.parse(text);
  } catch {
    throw new RequestError(
      400,
      text.trim() === "" ? "The body is empty: it must be JSON" : "The body is not valid JSON",
    );
  }
}

async function* pieces({ body }: Request): AsyncGenerator<Uint8Array, void> {
  if (body === null) return;
  const reader = body.getReader();
  try {
    while (true) {
      const { done, value } = await reader.read().catch((cause) => {
        throw new ClientGoneError("The body broke off", { cause });
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
