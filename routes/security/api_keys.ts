import { createHash, timingSafeEqual } from "node:crypto";

/** Guessing shorter ones over a network is thinkable. */
const MIN_LENGTH = 16;
const MAX_LENGTH = 512;

/** The keys that callers may come with. Only their digests are kept. */
export class ApiKeys {
  readonly #digests: readonly Uint8Array[];

  /** @throws {RangeError} If there is none, or one is too short, too long or cannot stand in a header; none is shown. */
  constructor(keys: readonly string[]) {
    if (keys.length === 0) throw new RangeError("Cannot check API keys: there are none");
    for (const [index, key] of keys.entries()) {
      if (key.length < MIN_LENGTH || key.length > MAX_LENGTH || !/^[\x20-\x7e]+$/.test(key) || key.trim() !== key) {
        throw new RangeError(
          `API key ${index + 1} of ${keys.length} cannot be used: it must have ${MIN_LENGTH} to ${MAX_LENGTH} ` +
            "printable ASCII characters",
        );
      }
    }
    this.#digests = keys.map(digest);
  }

  /**
   * Whether an `Authorization` header brings one of the keys. It takes as long for a near miss as for a far one: digests
   * are compared, whole, and every one of them.
   */
  accept(authorization: string | undefined): boolean {
    const given = /^Bearer +(.+)$/i.exec(authorization ?? "")?.[1];
    if (given === undefined) return false;
    const presented = digest(given);
    return this.#digests.reduce((found, known) => timingSafeEqual(known, presented) || found, false);
  }
}

/**
 * Keys of a file: one a line; blank lines and lines that begin with `#` are skipped.
 *
 * @param text Content of the file.
 */
export function readKeys(text: string): string[] {
  return text.split("\n").map((line) => line.trim()).filter((line) => line !== "" && !line.startsWith("#"));
}

function digest(key: string): Uint8Array {
  return createHash("sha256").update(key).digest();
}
