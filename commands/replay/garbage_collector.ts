/**
 * Collects another Deno process's garbage through its debugger, so that what is left of its memory can be measured.
 *
 * @see https://chromedevtools.github.io/devtools-protocol/tot/HeapProfiler/#method-collectGarbage
 */
export class GarbageCollector implements Disposable {
  readonly #socket: WebSocket;
  readonly #pending = new Map<number, () => void>();
  #next = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      const { id } = JSON.parse(data);
      this.#pending.get(id)?.();
      this.#pending.delete(id);
    };
  }

  /** @param url Of the debugger. @throws {RangeError} If nothing answers there. */
  static async connect(url: string): Promise<GarbageCollector> {
    const socket = new WebSocket(url);
    await new Promise<void>((resolve, reject) => {
      socket.onopen = () => resolve();
      socket.onerror = () => reject(new RangeError(`There is no debugger at ${url}`));
    });
    return new GarbageCollector(socket);
  }

  /** Settles when all that nobody refers to is gone. */
  collect(): Promise<void> {
    return new Promise((resolve) => {
      const id = this.#next++;
      this.#pending.set(id, resolve);
      this.#socket.send(JSON.stringify({ id, method: "HeapProfiler.collectGarbage" }));
    });
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }
}
