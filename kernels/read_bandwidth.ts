import { LIBC } from "./libc.ts";

/** Larger than any last-level cache of the machines we run on. */
const BYTES_PER_STREAM = 1 << 28;

const SYMBOLS = {
  EspalierOpenStream: { parameters: ["usize"], result: "pointer" },
  EspalierCloseStream: { parameters: ["pointer"], result: "void" },
  EspalierReadStream: { parameters: ["pointer", "usize", "u32", "buffer", "buffer"], result: "u64", nonblocking: true },
} as const;

/** Streams of memory, one per thread. */
interface Streams {
  /** Reads all of them from end to end, each on a thread of its own, and says how many seconds it took. */
  read(): Promise<number>;
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
  readonly #threads: number;
  readonly #streams: Streams;

  /**
   * @param threads How many threads read at once.
   * @param library Path of the library of our operators, or null.
   */
  constructor(threads: number, library: string | null) {
    this.#threads = threads;
    this.#streams = library === null ? plainStreams(threads) : nativeStreams(threads, library);
  }

  /** Bytes per second of one pass over all blocks, a few milliseconds. */
  async measure(): Promise<number> {
    return this.#threads * BYTES_PER_STREAM / await this.#streams.read();
  }

  close(): void {
    this.#streams.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Threads wait for each other and read the clock: one that wakes late would make it look as if memory gave half. */
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
    read: async () => {
      const came = new Uint32Array(1);
      const times = streams.map(() => new Float64Array(2));
      await Promise.all(
        streams.map((stream, i) =>
          symbols.EspalierReadStream(stream, BigInt(BYTES_PER_STREAM), threads, came, times[i]!)
        ),
      );
      return Math.max(...times.map(([, end]) => end!)) - Math.min(...times.map(([begin]) => begin!));
    },
    close: closeAll,
  };
}

function plainStreams(threads: number): Streams {
  const libc = Deno.dlopen(LIBC, {
    memchr: { parameters: ["buffer", "i32", "usize"], result: "pointer", nonblocking: true },
  });
  const streams = Array.from({ length: threads }, () => new Uint8Array(BYTES_PER_STREAM).fill(1));
  return {
    read: async () => {
      const start = performance.now();
      await Promise.all(streams.map((stream) => libc.symbols.memchr(stream, 0, BigInt(stream.length))));
      return (performance.now() - start) / 1000;
    },
    close: () => libc.close(),
  };
}
