import { CApi, cString, type Handle } from "./c_api.ts";
import { libraryPath } from "./library.ts";
import type { ElementType } from "./model.ts";
import { openSession, type Session, type SessionOptions } from "./session.ts";
import { DeviceTensor } from "./device_tensor.ts";
import { appendCudaProvider } from "./cuda_provider.ts";
import { Tensor, type TensorData } from "./tensor.ts";

/** 3 shows errors, 4 only what ends the process. A failed run is reported by its status already. */
const LOG_SEVERITY = 4;

/** A loaded ONNX Runtime library and its one environment. */
export class Runtime {
  readonly api: CApi;
  readonly environment: Handle;
  readonly cpuMemory: Handle;
  #cudaMemory: Handle | undefined;

  constructor(path: string) {
    // Official Linux builds report usage unless told otherwise before they are loaded.
    Deno.env.set("ORT_DISABLE_TELEMETRY", "1");
    this.api = new CApi(path);
    const { api } = this;
    this.environment = api.create((out) => api.fn.CreateEnv(LOG_SEVERITY, cString("espalier"), out));
    const [arenaAllocator, defaultMemory] = [1, 0];
    this.cpuMemory = api.create((out) => api.fn.CreateCpuMemoryInfo(arenaAllocator, defaultMemory, out));
  }

  get version(): string {
    return this.api.version;
  }

  /** Describes memory of the first CUDA device. */
  get cudaMemory(): Handle {
    const [deviceAllocator, firstDevice, defaultMemory] = [0, 0, 0];
    return this.#cudaMemory ??= this.api.create((out) =>
      this.api.fn.CreateMemoryInfo(cString("Cuda"), deviceAllocator, firstDevice, defaultMemory, out)
    );
  }

  /** Why sessions cannot use a CUDA device, or null: this library has no such provider, or the provider lacks a library. */
  cudaProblem(): string | null {
    const { fn } = this.api;
    const settings = this.api.create((out) => fn.CreateSessionOptions(out));
    try {
      appendCudaProvider(this.api, settings, { capture: false, everyNode: true });
      return null;
    } catch (error) {
      return (error as Error).message;
    } finally {
      fn.ReleaseSessionOptions(settings);
    }
  }

  /** A tensor over a CUDA device's memory, or page-locked memory of the host; see `DeviceTensor`. */
  deviceTensor(
    type: ElementType,
    shape: readonly number[],
    memory: { readonly address: Handle; readonly bytes: number },
  ): DeviceTensor {
    return new DeviceTensor(this, type, shape, memory);
  }

  /** A tensor over `data`, in place. */
  tensor<Data extends TensorData>(type: ElementType, shape: readonly number[], data: Data): Tensor<Data> {
    return new Tensor(this, type, shape, data);
  }

  /** Opens a session; see `SessionOptions`. */
  openSession(options: SessionOptions): Promise<Session> {
    return openSession(this, options);
  }
}

let shared: Runtime | undefined;

/**
 * The process' runtime, loaded at first use. One is enough: the library keeps one environment per process whatever is
 * asked for.
 */
export function openRuntime(): Runtime {
  return shared ??= new Runtime(libraryPath());
}
