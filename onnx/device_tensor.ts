import type { Handle } from "./c_api.ts";
import { ELEMENT_BYTES, type ElementType } from "./model.ts";
import type { Runtime } from "./runtime.ts";

/** What a binding takes: a tensor in our memory or in a device's. */
export interface BoundTensor {
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** The runtime's handle. @throws {TypeError} After `close`. */
  readonly value: Handle;
  /** Frees the runtime's handle, not the memory. Closing twice does nothing. */
  close(): void;
}

/**
 * A tensor over memory that a CUDA device reads and writes in place: its own, or page-locked memory of the host, which the
 * device reaches at the same address. Either way the runtime is told that it lies on the device, so it copies nothing.
 *
 * The memory must outlive the tensor and every binding with it.
 */
export class DeviceTensor implements BoundTensor {
  readonly #runtime: Runtime;
  #value: Handle | null;

  /**
   * @param shape Sizes, row-major.
   * @param memory Where it begins, and the bytes that are there.
   * @throws {RangeError} If the shape needs more.
   */
  constructor(
    runtime: Runtime,
    readonly type: ElementType,
    readonly shape: readonly number[],
    memory: { readonly address: Handle; readonly bytes: number },
  ) {
    const bytes = shape.reduce((product, size) => product * size, 1) * ELEMENT_BYTES[type];
    if (bytes > memory.bytes) {
      throw new RangeError(`Cannot make a tensor [${shape}]: it needs ${bytes} bytes, the memory has ${memory.bytes}`);
    }
    this.#runtime = runtime;
    const { api, cudaMemory } = runtime;
    this.#value = api.create((out) =>
      api.fn.CreateTensorWithDataAsOrtValue(
        cudaMemory,
        memory.address,
        BigInt(bytes),
        BigInt64Array.from(shape, BigInt),
        BigInt(shape.length),
        type,
        out,
      )
    );
  }

  get value(): Handle {
    if (this.#value === null) throw new TypeError(`Cannot use a tensor [${this.shape}] after it was closed`);
    return this.#value;
  }

  close(): void {
    if (this.#value !== null) this.#runtime.api.fn.ReleaseValue(this.#value);
    this.#value = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
