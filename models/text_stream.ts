const SPACE = 0x20;

/**
 * Turns tokens into text one by one. What it returns never ends inside a character: bytes of one that is not complete
 * wait for the next tokens. All the pieces in a row, with that of {@linkcode TextStream.flush} at the end, are the text
 * of all the tokens.
 */
export class TextStream {
  readonly #bytesOf: (id: number) => Uint8Array<ArrayBuffer>;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #dropSpace: boolean;

  /**
   * @param bytesOf The bytes that a token adds to the text; none for tokens that are not text.
   * @param options `dropLeadingSpace`: whether a space that the whole text begins with belongs to the tokenizer, and
   * not to the text.
   */
  constructor(
    bytesOf: (id: number) => Uint8Array<ArrayBuffer>,
    { dropLeadingSpace }: { dropLeadingSpace: boolean },
  ) {
    this.#bytesOf = bytesOf;
    this.#dropSpace = dropLeadingSpace;
  }

  /** Takes the next token; returns the text that is complete with it, possibly none. */
  push(id: number): string {
    let bytes = this.#bytesOf(id);
    if (this.#dropSpace && bytes.length > 0) {
      this.#dropSpace = false;
      if (bytes[0] === SPACE) bytes = bytes.subarray(1);
    }
    return this.#decoder.decode(bytes, { stream: true });
  }

  /** Ends the text; bytes that never became a character are returned as U+FFFD. */
  flush(): string {
    return this.#decoder.decode();
  }
}
