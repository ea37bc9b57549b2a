/**
 * Pieces that a body may come in however small they are. One costs some microseconds of the event loop, so that this
 * many cost about thirty milliseconds. Whoever sends a byte every ten milliseconds, for as long as a request may take by
 * default, sends three thousand; so does who encodes a prompt of three thousand tokens one by one.
 */
const MOST_TINY = 4096;

/** Mean size below which pieces are tiny: a chunk of so many bytes has a third as many of framing. */
const TINY_BYTES = 16;

/** Counts the pieces of a body as they come. Its bytes are limited elsewhere; a million can be as many pieces. */
export class PieceCount {
  #pieces = 0;
  #bytes = 0;

  /** @returns Whether they are too many for so few bytes. */
  add({ byteLength }: Uint8Array): boolean {
    this.#pieces++;
    this.#bytes += byteLength;
    return this.#pieces > MOST_TINY && this.#bytes < this.#pieces * TINY_BYTES;
  }
}
