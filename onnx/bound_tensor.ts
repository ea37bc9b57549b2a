import type { Handle } from "./c_api.ts";
import type { ElementType } from "./model.ts";
import type { Runtime } from "./runtime.ts";

/** What a binding takes: a tensor in our memory or in a device's. */
export abstract class BoundTensor {
  readonly #runtime: Runtime;
  #value: Handle | null;

  /** @param memory The runtime's name for where `address` lies. */
  constructor(
    runtime: Runtime,
    readonly type: ElementType,
    readonly shape: readonly number[],
    memory: Handle,
    address: Deno.PointerValue,
    bytes: number,
  ) {
    this.#runtime = runtime;
    const { api } = runtime;
    const dimensions = BigInt64Array.from(shape, BigInt);
    const rank = BigInt(shape.length);
    this.#value = api.create((out) =>
      api.fn.CreateTensorWithDataAsOrtValue(memory, address, BigInt(bytes), dimensions, rank, type, out)
    );
  }

  /** The runtime's handle. @throws {TypeError} After `close`. */
  get value(): Handle {
    if (this.#value === null) throw new TypeError(`Cannot use a tensor [${this.shape}] after it was closed`);
    return this.#value;
  }

  /** Frees the runtime's handle, not the memory. Closing twice does nothing. */
  close(): void {
    if (this.#value !== null) this.#runtime.api.fn.ReleaseValue(this.#value);
    this.#value = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
