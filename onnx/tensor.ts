import type { Handle } from "./c_api.ts";
import type { BoundTensor } from "./device_tensor.ts";
import { ELEMENT_BYTES, type ElementType } from "./model.ts";
import type { Runtime } from "./runtime.ts";

export type TensorData =
  | Float32Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | BigInt64Array<ArrayBuffer>;

/**
 * A tensor that lives in the caller's memory; nothing is copied.
 *
 * The runtime keeps the bare address, so the tensor carries its array, and a binding carries its tensors. The array's
 * buffer must not be transferred or resized meanwhile.
 */
export class Tensor<Data extends TensorData = TensorData> implements BoundTensor {
  readonly #runtime: Runtime;
  #value: Handle | null;

  /**
   * @param shape Sizes, row-major; their product is the number of elements of `data`.
   * @throws {RangeError} If shape and array differ in size.
   */
  constructor(runtime: Runtime, readonly type: ElementType, readonly shape: readonly number[], readonly data: Data) {
    const bytes = shape.reduce((product, size) => product * size, 1) * ELEMENT_BYTES[type];
    if (bytes !== data.byteLength) {
      throw new RangeError(
        `Cannot make a tensor [${shape}]: it needs ${bytes} bytes, the array has ${data.byteLength}`,
      );
    }
    this.#runtime = runtime;
    const { api, cpuMemory } = runtime;
    const dimensions = BigInt64Array.from(shape, BigInt);
    const address = Deno.UnsafePointer.of(data); // null for an empty array, which the runtime accepts
    this.#value = api.create((out) =>
      api.fn.CreateTensorWithDataAsOrtValue(
        cpuMemory,
        address,
        BigInt(data.byteLength),
        dimensions,
        BigInt(shape.length),
        type,
        out,
      )
    );
  }

  /** The runtime's handle. @throws {TypeError} After `close`. */
  get value(): Handle {
    if (this.#value === null) throw new TypeError(`Cannot use a tensor [${this.shape}] after it was closed`);
    return this.#value;
  }

  /** Frees the runtime's handle; the array stays. Closing twice does nothing. */
  close(): void {
    if (this.#value !== null) this.#runtime.api.fn.ReleaseValue(this.#value);
    this.#value = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
