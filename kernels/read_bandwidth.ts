/** Larger than any last-level cache of the machines we run on. */
const BYTES_PER_STREAM = 1 << 28;

const SYMBOLS = {
  EspalierOpenStream: { parameters: ["usize"], result: "pointer" },
  EspalierCloseStream: { parameters: ["pointer"], result: "void" },
  EspalierReadStream: { parameters: ["pointer", "usize"], result: "u64", nonblocking: true },
} as const;

/** Passes of a measurement. A thread that wakes late makes one look as if memory gave half: 34 to 72 GB/s on two cores. */
const PASSES = 5;

/** Streams of memory, one per thread, and a way to read one of them from end to end. */
interface Streams {
  readonly reads: readonly (() => Promise<unknown>)[];
  close(): void;
}

/**
 * Measures how fast this machine reads memory: each thread its own block of memory, larger than the caches.
 *
 * It is the yardstick of decoding, which reads every active weight once per token. With our library it reads as our
 * operators do, huge pages and asking in advance, and computes next to nothing: what they reach stays below. Without it the
 * C library's `memchr` searches small pages for a byte that is not there, as stock operators read a mapped file.
 */
export class ReadLoop {
  readonly #streams: Streams;

  /**
   * @param threads How many threads read at once.
   * @param library Path of the library of our operators, or null.
   */
  constructor(threads: number, library: string | null) {
    this.#streams = library === null ? plainStreams(threads) : nativeStreams(threads, library);
  }

  /** Bytes per second of the fastest of a few passes over all blocks. */
  async measure(): Promise<number> {
    const { reads } = this.#streams;
    let fastest = Infinity;
    for (let pass = 0; pass < PASSES; pass++) {
      const start = performance.now();
      await Promise.all(reads.map((read) => read()));
      fastest = Math.min(fastest, performance.now() - start);
    }
    return reads.length * BYTES_PER_STREAM / (fastest / 1000);
  }

  close(): void {
    this.#streams.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function nativeStreams(threads: number, library: string): Streams {
  const native = Deno.dlopen(library, SYMBOLS);
  const { symbols } = native;
  const streams = Array.from({ length: threads }, () => symbols.EspalierOpenStream(BigInt(BYTES_PER_STREAM)));
  const closeAll = () => {
    for (const stream of streams) if (stream !== null) symbols.EspalierCloseStream(stream);
    native.close();
  };
  if (streams.includes(null)) {
    closeAll();
    throw new Error(`Cannot measure the memory: there are no ${threads} times ${BYTES_PER_STREAM} bytes to read`);
  }
  return {
    reads: streams.map((stream) => () => symbols.EspalierReadStream(stream, BigInt(BYTES_PER_STREAM))),
    close: closeAll,
  };
}

function plainStreams(threads: number): Streams {
  const libc = Deno.dlopen("libc.so.6", {
    memchr: { parameters: ["buffer", "i32", "usize"], result: "pointer", nonblocking: true },
  });
  const streams = Array.from({ length: threads }, () => new Uint8Array(BYTES_PER_STREAM).fill(1));
  return {
    reads: streams.map((stream) => () => libc.symbols.memchr(stream, 0, BigInt(stream.length))),
    close: () => libc.close(),
  };
}
