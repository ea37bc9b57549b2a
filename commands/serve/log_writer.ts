/** Lines that wait to be written; a second of a busy service. */
const MOST_WAITING = 1000;

/**
 * Writes lines one after the other, and holds nobody up: a terminal that is paused, or a pipe that nobody reads, would
 * stop the whole service if each line was waited for. Lines beyond those that can wait are dropped, and counted in a line
 * that comes where they are missing.
 */
export class LogWriter {
  readonly #write: (bytes: Uint8Array) => Promise<unknown>;
  readonly #lost: (count: number) => string;
  #waiting: string[] = [];
  #dropped = 0;
  #writing: Promise<void> | null = null;

  /**
   * @param write Settles when all of the bytes are written. If it fails, so it goes on: there is nobody to tell.
   * @param lost What the line about dropped ones says.
   */
  constructor({ write, lost }: { write: (bytes: Uint8Array) => Promise<unknown>; lost: (count: number) => string }) {
    this.#write = write;
    this.#lost = lost;
  }

  log(line: string): void {
    if (this.#waiting.length >= MOST_WAITING) return void this.#dropped++;
    this.#waiting.push(line);
    this.#writing ??= this.#run();
  }

  /** Settles when all lines are written. */
  async flush(): Promise<void> {
    await this.#writing;
  }

  async #run(): Promise<void> {
    await null; // what is logged together is written together
    const encoder = new TextEncoder();
    while (this.#waiting.length > 0) {
      const lines = this.#waiting;
      if (this.#dropped > 0) lines.push(this.#lost(this.#dropped));
      [this.#waiting, this.#dropped] = [[], 0];
      await this.#write(encoder.encode(`${lines.join("\n")}\n`)).catch(() => {});
    }
    this.#writing = null;
  }
}

/** Writes all of the bytes to stdout, from a thread of the runtime's. */
export async function writeStdout(bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await Deno.stdout.write(bytes.subarray(at));
}
