import { CApi, cString, type Handle } from "./c_api.ts";
import { libraryPath } from "./library.ts";
import type { ElementType } from "./model.ts";
import { openSession, type Session, type SessionOptions } from "./session.ts";
import { Tensor, type TensorData } from "./tensor.ts";

/** 3 shows errors, 4 only what ends the process. A failed run is reported by its status already. */
const LOG_SEVERITY = 4;

/** A loaded ONNX Runtime library and its one environment. */
export class Runtime {
  readonly api: CApi;
  readonly environment: Handle;
  readonly cpuMemory: Handle;

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
