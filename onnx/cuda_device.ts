/**
 * The first CUDA device of the process, over NVIDIA's driver: its name, its memory, and memory of it for tensors.
 *
 * The driver and the runtime's CUDA provider share the device's primary context, so addresses of one are good in the other.
 */

import type { Handle } from "./c_api.ts";

const FUNCTIONS = {
  cuInit: { parameters: ["u32"], result: "i32" },
  cuDriverGetVersion: { parameters: ["buffer"], result: "i32" },
  cuDeviceGetCount: { parameters: ["buffer"], result: "i32" },
  cuDeviceGet: { parameters: ["buffer", "i32"], result: "i32" },
  cuDeviceGetName: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  cuDeviceGetAttribute: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  cuDevicePrimaryCtxRetain: { parameters: ["buffer", "i32"], result: "i32" },
  cuCtxSetCurrent: { parameters: ["pointer"], result: "i32" },
  cuCtxSynchronize: { parameters: [], result: "i32" },
  cuMemGetInfo_v2: { parameters: ["buffer", "buffer"], result: "i32" },
  cuMemAlloc_v2: { parameters: ["buffer", "usize"], result: "i32" },
  cuMemFree_v2: { parameters: ["u64"], result: "i32" },
  cuMemsetD8_v2: { parameters: ["u64", "u8", "usize"], result: "i32" },
  cuMemcpyDtoDAsync_v2: { parameters: ["u64", "u64", "usize", "pointer"], result: "i32" },
  cuMemHostAlloc: { parameters: ["buffer", "usize", "u32"], result: "i32" },
  cuMemFreeHost: { parameters: ["pointer"], result: "i32" },
  cuGetErrorString: { parameters: ["i32", "buffer"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

type Driver = Deno.DynamicLibrary<typeof FUNCTIONS>["symbols"];

/** Numbers of `CUdevice_attribute`. */
const ATTRIBUTE = { major: 75, minor: 76 } as const;

/** `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP`. */
const HOST_FLAGS = 3;

/** Memory of the device. */
export interface DeviceMemory {
  readonly address: Handle;
  readonly bytes: number;
  /** Gives it back. What is over it must be closed before. */
  free(): void;
}

/** Page-locked memory of the host, which the device reads and writes at the same address. */
export interface PinnedMemory extends DeviceMemory {
  /** The same memory from here. It must not be touched after `free`. */
  readonly buffer: ArrayBuffer;
}

/** A CUDA device. */
export class CudaDevice {
  /** Such as "NVIDIA H100 80GB HBM3". */
  readonly name: string;
  /** Such as "9.0". */
  readonly computeCapability: string;
  /** The newest CUDA that the driver knows, such as "13.0". */
  readonly driverVersion: string;
  readonly #driver: Driver;
  readonly #context: Handle;

  /** @throws {TypeError} If there is no driver or no device. */
  constructor() {
    this.#driver = openDriver();
    const integer = (what: string, call: (out: Int32Array<ArrayBuffer>) => number) => {
      const out = new Int32Array(1);
      this.#check(what, call(out));
      return out[0]!;
    };
    const driver = this.#driver;
    this.#check("start CUDA's driver", driver.cuInit(0));
    if (integer("count CUDA devices", (out) => driver.cuDeviceGetCount(out)) === 0) {
      throw new TypeError("Cannot use CUDA: there is no device");
    }
    const device = integer("find the CUDA device", (out) => driver.cuDeviceGet(out, 0));
    const name = new Uint8Array(256);
    this.#check("name the CUDA device", driver.cuDeviceGetName(name, name.length, device));
    this.name = new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
    const attribute = (key: keyof typeof ATTRIBUTE) =>
      integer("describe the CUDA device", (out) => driver.cuDeviceGetAttribute(out, ATTRIBUTE[key], device));
    this.computeCapability = `${attribute("major")}.${attribute("minor")}`;
    const version = integer("ask CUDA's driver", (out) => driver.cuDriverGetVersion(out));
    this.driverVersion = `${Math.floor(version / 1000)}.${Math.floor(version % 1000 / 10)}`;
    // Never released: the process uses it to its end.
    this.#context = this.#address("open the CUDA device", (out) => driver.cuDevicePrimaryCtxRetain(out, device));
  }

  /** Bytes of the device's memory that nobody has, and all of them. */
  memory(): { free: number; total: number } {
    const [free, total] = [new BigUint64Array(1), new BigUint64Array(1)];
    this.#check("ask for the CUDA device's memory", this.#current.cuMemGetInfo_v2(free, total));
    return { free: Number(free[0]), total: Number(total[0]) };
  }

  /** Memory of the device, of zeros. @throws {RangeError} If so much is not free. */
  allocate(bytes: number): DeviceMemory {
    const driver = this.#current;
    const size = BigInt(Math.max(1, bytes));
    const address = this.#address(
      `take ${bytes} bytes of the CUDA device's memory`,
      (out) => driver.cuMemAlloc_v2(out, size),
    );
    const number = BigInt(Deno.UnsafePointer.value(address));
    this.#check("clear the CUDA device's memory", driver.cuMemsetD8_v2(number, 0, size));
    // A session's stream does not wait for the one on which this happens.
    this.#check("clear the CUDA device's memory", driver.cuCtxSynchronize());
    const free = () => this.#check("free the CUDA device's memory", this.#current.cuMemFree_v2(number));
    return { address, bytes, free };
  }

  /** Page-locked memory of the host, of zeros. @throws {RangeError} If so much is not free. */
  allocatePinned(bytes: number): PinnedMemory {
    const driver = this.#current;
    const size = Math.max(1, bytes);
    const address = this.#address(
      `lock ${bytes} bytes of the host's memory`,
      (out) => driver.cuMemHostAlloc(out, BigInt(size), HOST_FLAGS),
    );
    const buffer = Deno.UnsafePointerView.getArrayBuffer(address, size);
    new Uint8Array(buffer).fill(0);
    const free = () => this.#check("free page-locked memory", this.#current.cuMemFreeHost(address));
    return { address, bytes, buffer, free };
  }

  /** Bytes per second that are read and written by a copy inside the device's memory, the best of a few. */
  copyBandwidth(bytes = 2 ** 30): number {
    const [from, to] = [this.allocate(bytes), this.allocate(bytes)];
    try {
      const driver = this.#current;
      const number = ({ address }: DeviceMemory) => BigInt(Deno.UnsafePointer.value(address));
      let best = 0;
      const copies = 8;
      for (let round = 0; round < 6; round++) {
        const start = performance.now();
        for (let copy = 0; copy < copies; copy++) {
          this.#check("copy", driver.cuMemcpyDtoDAsync_v2(number(to), number(from), BigInt(bytes), null));
        }
        this.#check("copy", driver.cuCtxSynchronize());
        best = Math.max(best, 2 * copies * bytes / ((performance.now() - start) / 1000));
      }
      return best;
    } finally {
      from.free();
      to.free();
    }
  }

  /** The driver, with the device's context current in this thread. */
  get #current(): Driver {
    this.#check("use the CUDA device", this.#driver.cuCtxSetCurrent(this.#context));
    return this.#driver;
  }

  #address(what: string, call: (out: BigUint64Array<ArrayBuffer>) => number): Handle {
    const out = new BigUint64Array(1);
    this.#check(what, call(out));
    const address = Deno.UnsafePointer.create(out[0]!);
    if (address === null) throw new RangeError(`Cannot ${what}: the driver returned null`);
    return address;
  }

  #check(what: string, result: number): void {
    if (result === 0) return;
    const text = new BigUint64Array(1);
    this.#driver.cuGetErrorString(result, text);
    const pointer = Deno.UnsafePointer.create(text[0]!);
    const reason = pointer === null ? `error ${result}` : Deno.UnsafePointerView.getCString(pointer);
    const message = `Cannot ${what}: ${reason}`;
    throw /memory/.test(reason) ? new RangeError(message) : new TypeError(message);
  }
}

let shared: CudaDevice | undefined;

/** The process' CUDA device, opened at first use. @throws {TypeError} Saying why there is none. */
export function cudaDevice(): CudaDevice {
  return shared ??= new CudaDevice();
}

function openDriver(): Driver {
  try {
    return Deno.dlopen("libcuda.so.1", FUNCTIONS).symbols;
  } catch (cause) {
    // Deno says before it, once or twice, that it could not.
    const message = (cause as Error).message.trim().replace(/^(Could not open library: )+/, "");
    throw new TypeError(`Cannot load NVIDIA's driver: ${message}`, { cause });
  }
}
