import { type BoundTensor, cudaDevice, ELEMENT_BYTES, ElementType, type Runtime } from "../onnx/mod.ts";

/** Memory for tensors, each of which lies over its beginning. */
export interface TensorMemory {
  /** The same memory from here; null if only the device reaches it. */
  readonly buffer: ArrayBuffer | null;
  tensor(shape: readonly number[]): BoundTensor;
  /** Gives it back. No tensor over it may be in use any more. */
  free(): void;
}

/** Memory that the host reaches. */
export interface SharedMemory extends TensorMemory {
  readonly buffer: ArrayBuffer;
}

/** Where a decoder that keeps caches lane by lane has them, and what its steps read and write. */
export interface LanePlace {
  /** Whether the host reaches caches. */
  readonly reachable: boolean;
  /** What keys, values and states are. */
  readonly cacheType: ElementType;
  /** Memory for so many elements that the host reads and writes, too. */
  shared(type: ElementType, count: number): SharedMemory;
  /** Memory for so many elements of a cache. */
  cache(count: number): TensorMemory;
}

/** The CPU's memory. Pages of it cost nothing until they are written. */
export function cpuPlace(runtime: Runtime, cacheType: ElementType): LanePlace {
  const allocate = (type: ElementType, count: number) => {
    const buffer = new ArrayBuffer(count * ELEMENT_BYTES[type]);
    return {
      buffer,
      tensor(shape: readonly number[]) {
        const bytes = shape.reduce((product, size) => product * size, ELEMENT_BYTES[type]);
        return runtime.tensor(type, shape, new Uint8Array(buffer, 0, bytes));
      },
      free() {},
    };
  };
  return { reachable: true, cacheType, shared: allocate, cache: (count) => allocate(cacheType, count) };
}

/** A CUDA device's own memory for caches, in half precision, and for the rest the host's, which it reaches in place. */
export function cudaPlace(runtime: Runtime): LanePlace {
  const device = cudaDevice();
  const cacheType = ElementType.float16;
  return {
    reachable: false,
    cacheType,
    shared(type, count) {
      const memory = device.allocatePinned(count * ELEMENT_BYTES[type]);
      return {
        buffer: memory.buffer,
        tensor: (shape) => runtime.deviceTensor(type, shape, memory),
        free: () => memory.free(),
      };
    },
    cache(count) {
      const memory = device.allocate(count * ELEMENT_BYTES[cacheType]);
      return {
        buffer: null,
        tensor: (shape) => runtime.deviceTensor(cacheType, shape, memory),
        free: () => memory.free(),
      };
    },
  };
}
