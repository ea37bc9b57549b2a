/**
 * A file that is read by ranges, from any number of places at once.
 *
 * A file handle has one position, so that two reads which interleave would take each other's bytes; here they queue.
 */
export class RangeFile implements Disposable {
  readonly path: string;
  /** In bytes, as found when the file was opened. */
  readonly size: number;
  readonly #file: Deno.FsFile;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(path: string, file: Deno.FsFile, size: number) {
    this.path = path;
    this.#file = file;
    this.size = size;
  }

  static async open(path: string): Promise<RangeFile> {
    const file = await Deno.open(path, { read: true });
    try {
      const { size } = await file.stat();
      return new RangeFile(path, file, size);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * Reads exactly `length` bytes from `offset` on.
   *
   * @throws {RangeError} If the file ends before.
   */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    if (offset + length > this.size) {
      const reason = `Cannot read ${length} bytes at ${offset} of ${this.path}: the file has ${this.size} bytes`;
      return Promise.reject(new RangeError(reason));
    }
    const result = this.#last.then(() => this.#readNow(offset, new Uint8Array(length)));
    this.#last = result.catch(() => {});
    return result;
  }

  async #readNow(offset: number, out: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    await this.#file.seek(offset, Deno.SeekMode.Start);
    for (let filled = 0; filled < out.length;) {
      const count = await this.#file.read(out.subarray(filled));
      if (count === null) {
        throw new RangeError(
          `Cannot read ${out.length} bytes at ${offset} of ${this.path}: it ended after ${filled}; ` +
            `it was shortened after it had been opened with ${this.size} bytes`,
        );
      }
      filled += count;
    }
    return out;
  }

  /** Reads still in the queue fail. Closing again does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
