/** Values from one producer to one consumer, in order; the producer never waits. */
export class Channel<T> implements AsyncIterableIterator<T> {
  readonly #values: T[] = [];
  #end: { readonly error?: unknown } | null = null;
  #waiting: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void } | null = null;
  readonly #onReturn: () => void;

  /** @param onReturn Called when the consumer leaves before the end. */
  constructor(onReturn: () => void) {
    this.#onReturn = onReturn;
  }

  push(value: T): void {
    if (this.#end !== null) return;
    if (this.#waiting === null) this.#values.push(value);
    else this.#take().resolve({ done: false, value });
  }

  /** Ends after the values pushed so far. */
  close(): void {
    if (this.#end !== null) return;
    this.#end = {};
    if (this.#waiting !== null) this.#take().resolve({ done: true, value: undefined });
  }

  /** Ends with an error after the values pushed so far. */
  fail(error: unknown): void {
    if (this.#end !== null) return;
    this.#end = { error };
    if (this.#waiting !== null) this.#take().reject(error);
  }

  next(): Promise<IteratorResult<T>> {
    if (this.#values.length > 0) return Promise.resolve({ done: false, value: this.#values.shift()! });
    if (this.#end === null) return new Promise((resolve, reject) => this.#waiting = { resolve, reject });
    return "error" in this.#end ? Promise.reject(this.#end.error) : Promise.resolve({ done: true, value: undefined });
  }

  return(): Promise<IteratorResult<T>> {
    const left = this.#end === null;
    this.close();
    this.#values.length = 0;
    if (left) this.#onReturn();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #take(): { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void } {
    const waiting = this.#waiting!;
    this.#waiting = null;
    return waiting;
  }
}
