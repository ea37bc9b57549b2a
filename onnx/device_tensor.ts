import { BoundTensor } from "./bound_tensor.ts";
import type { Handle } from "./c_api.ts";
import { ELEMENT_BYTES, type ElementType } from "./model.ts";
import type { Runtime } from "./runtime.ts";

/**
 * A tensor over memory that a CUDA device reads and writes in place: its own, or page-locked memory of the host, which the
 * device reaches at the same address. Either way the runtime is told that it lies on the device, so it copies nothing.
 *
 * The memory must outlive the tensor and every binding with it.
 */
export class DeviceTensor extends BoundTensor {
  /**
   * @param shape Sizes, row-major.
   * @param memory Where it begins, and the bytes that are there.
   * @throws {RangeError} If the shape needs more.
   */
  constructor(
    runtime: Runtime,
    type: ElementType,
    shape: readonly number[],
    memory: { readonly address: Handle; readonly bytes: number },
  ) {
    const bytes = shape.reduce((product, size) => product * size, 1) * ELEMENT_BYTES[type];
    if (bytes > memory.bytes) {
      throw new RangeError(`Cannot make a tensor [${shape}]: it needs ${bytes} bytes, the memory has ${memory.bytes}`);
    }
    super(runtime, type, shape, runtime.cudaMemory, memory.address, bytes);
  }
}
