import { BoundTensor } from "./bound_tensor.ts";
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
export class Tensor<Data extends TensorData = TensorData> extends BoundTensor {
  /**
   * @param shape Sizes, row-major; their product is the number of elements of `data`.
   * @throws {RangeError} If shape and array differ in size.
   */
  constructor(runtime: Runtime, type: ElementType, shape: readonly number[], readonly data: Data) {
    const bytes = shape.reduce((product, size) => product * size, 1) * ELEMENT_BYTES[type];
    if (bytes !== data.byteLength) {
      throw new RangeError(
        `Cannot make a tensor [${shape}]: it needs ${bytes} bytes, the array has ${data.byteLength}`,
      );
    }
    const address = Deno.UnsafePointer.of(data); // null for an empty array, which the runtime accepts
    super(runtime, type, shape, runtime.cpuMemory, address, bytes);
  }
}
