/** Larger than any last-level cache of the machines we run on. */
const BYTES_PER_STREAM = 1 << 28;

/**
 * Measures how fast this machine reads memory: each thread searches its own block of memory, larger than the caches,
 * for a byte that is not there. The C library's `memchr` does that with the widest loads the processor has.
 *
 * It is the yardstick of decoding, which reads every active weight once per token.
 */
export class ReadLoop {
  readonly #libc = Deno.dlopen("libc.so.6", {
    memchr: { parameters: ["buffer", "i32", "usize"], result: "pointer", nonblocking: true },
  });
  readonly #streams: Uint8Array<ArrayBuffer>[];

  /** @param threads How many threads read at once. */
  constructor(threads: number) {
    this.#streams = Array.from({ length: threads }, () => new Uint8Array(BYTES_PER_STREAM).fill(1));
  }

  /** Bytes per second of one pass over all blocks. */
  async measure(): Promise<number> {
    const start = performance.now();
    await Promise.all(
      this.#streams.map((stream) => this.#libc.symbols.memchr(stream, 0, BigInt(stream.length))),
    );
    return this.#streams.length * BYTES_PER_STREAM / ((performance.now() - start) / 1000);
  }

  close(): void {
    this.#libc.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
