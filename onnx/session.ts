import { setImmediate } from "node:timers/promises";
import { cString, type Handle } from "./c_api.ts";
import { appendCudaProvider, type CudaOptions } from "./cuda_provider.ts";
import type { BoundTensor } from "./bound_tensor.ts";
import { encodeModel } from "./protobuf.ts";
import type { Model } from "./model.ts";
import type { Runtime } from "./runtime.ts";
import type { Tensor } from "./tensor.ts";

export interface SessionOptions {
  readonly model: Model;
  /** Threads that a run uses, the calling one included; 0: as many as there are cores. */
  readonly threads: number;
  /** The folder that the model's file ranges refer to. */
  readonly folder?: string;
  /** Constants that live in our memory and are used there, by initializer name. */
  readonly initializers?: ReadonlyMap<string, Tensor>;
  /** Path of a library of operators that the graph uses. */
  readonly operators?: string;
  /** 0 leaves the graph as written, 99 applies all rewrites (default). */
  readonly optimization?: 0 | 1 | 2 | 3 | 99;
  /** Writes a timeline of every node to a file that starts with this prefix; `endProfiling` returns its path. */
  readonly profilePrefix?: string;
  /** Runs the graph on a CUDA device; what is bound has to lie there. Without it on the CPU. */
  readonly cuda?: CudaOptions;
}

export interface BindingOptions {
  /**
   * Captures the first run as a CUDA graph of this number, 0 or larger and unique in the session, and replays it from then on.
   * The first run computes several times. Nothing may be bound anew afterwards; what tensors hold may change.
   */
  readonly capturedGraph?: number;
}

/** A graph that is ready to run. */
export class Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly #runtime: Runtime;
  readonly #cuda: CudaOptions | null;
  /** What the runtime refers to by address for as long as the session lives. */
  readonly #pinned: unknown;
  #handle: Handle | null;
  readonly #bindings = new Set<Binding>();

  constructor(
    runtime: Runtime,
    handle: Handle,
    { pinned, cuda }: { readonly pinned: unknown; readonly cuda: CudaOptions | null },
  ) {
    this.#runtime = runtime;
    this.#handle = handle;
    this.#pinned = pinned;
    this.#cuda = cuda;
    const { api } = runtime;
    const { fn } = api;
    const names = (
      count: "SessionGetInputCount" | "SessionGetOutputCount",
      name: "SessionGetInputName" | "SessionGetOutputName",
    ) =>
      Array.from(
        { length: api.size((out) => fn[count](handle, out)) },
        (_, i) => api.string((allocator, out) => fn[name](handle, BigInt(i), allocator, out)),
      );
    this.inputNames = names("SessionGetInputCount", "SessionGetInputName");
    this.outputNames = names("SessionGetOutputCount", "SessionGetOutputName");
  }

  get handle(): Handle {
    if (this.#handle === null) throw new TypeError("Cannot use a session after it was closed");
    return this.#handle;
  }

  /** A set of tensors for this session's inputs and outputs. */
  bind({ capturedGraph }: BindingOptions = {}): Binding {
    if (capturedGraph !== undefined && this.#cuda?.capture !== true) {
      throw new TypeError("Cannot capture the runs of a session that was not opened to");
    }
    const binding = new Binding(this.#runtime, this, {
      place: this.#cuda === null ? "cpu" : capturedGraph ?? "device",
      onClose: () => this.#bindings.delete(binding),
    });
    this.#bindings.add(binding);
    return binding;
  }

  /** Ends profiling and returns the path of the timeline. */
  endProfiling(): string {
    const { api } = this.#runtime;
    return api.string((allocator, out) => api.fn.SessionEndProfiling(this.handle, allocator, out));
  }

  /**
   * Frees the session and its bindings.
   *
   * @throws {TypeError} If a run is under way; the runtime would read freed memory.
   */
  close(): void {
    if (this.#handle === null) return;
    if ([...this.#bindings].some((binding) => binding.running)) {
      throw new TypeError("Cannot close a session while it is running");
    }
    for (const binding of this.#bindings) binding.close();
    this.#runtime.api.fn.ReleaseSession(this.#handle);
    this.#handle = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Where a binding's runs happen: on the CPU, on the device node by node, or there as a captured graph of this number. */
type RunPlace = "cpu" | "device" | number;

/**
 * Tensors bound to a session's names. A run reads and writes them in place; the same tensor may be an input and an
 * output where an operator supports that (attention caches).
 */
export class Binding {
  readonly #runtime: Runtime;
  readonly #session: Session;
  readonly #place: RunPlace;
  readonly #onClose: () => void;
  readonly #inputs = new Map<string, BoundTensor>();
  readonly #outputs = new Map<string, BoundTensor>();
  readonly #encodedNames = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly #runOptions: Handle;
  #handle: Handle | null;
  #running = false;

  constructor(
    runtime: Runtime,
    session: Session,
    { place, onClose }: { readonly place: RunPlace; readonly onClose: () => void },
  ) {
    this.#runtime = runtime;
    this.#session = session;
    this.#place = place;
    this.#onClose = onClose;
    const { api } = runtime;
    this.#handle = api.create((out) => api.fn.CreateIoBinding(session.handle, out));
    this.#runOptions = api.create((out) => api.fn.CreateRunOptions(out));
    if (place === "cpu") return;
    const config = (key: string, value: string) =>
      api.check(api.fn.AddRunConfigEntry(this.#runOptions, cString(key), cString(value)));
    const eagerly = "-1";
    config("gpu_graph_id", place === "device" ? eagerly : String(place));
    // The device is waited for by a call of its own, off the event loop.
    if (place === "device") config("disable_synchronize_execution_providers", "1");
  }

  get running(): boolean {
    return this.#running;
  }

  /** Binds an input. The tensor is kept until another takes its place. */
  input(name: string, tensor: BoundTensor): this {
    if (this.#inputs.get(name) === tensor) return this;
    this.#checkName(name, this.#session.inputNames, "input");
    this.#runtime.api.check(this.#runtime.api.fn.BindInput(this.#idle, this.#encoded(name), tensor.value));
    this.#inputs.set(name, tensor);
    return this;
  }

  /** Binds an output. Its shape must be the one that the run will make. */
  output(name: string, tensor: BoundTensor): this {
    if (this.#outputs.get(name) === tensor) return this;
    this.#checkName(name, this.#session.outputNames, "output");
    this.#runtime.api.check(this.#runtime.api.fn.BindOutput(this.#idle, this.#encoded(name), tensor.value));
    this.#outputs.set(name, tensor);
    return this;
  }

  /**
   * Runs the graph. On the CPU this happens on threads of the runtime, and the event loop stays free. On a device the
   * calling thread hands it the work, always the same one, since captured graphs belong to their thread; then it waits off the
   * event loop. A replayed graph is waited for in place, and the event loop has its turn after it.
   *
   * @param signal Stops a run on the CPU between two nodes; on a device, one that has not begun.
   * @throws {DOMException} The signal's reason, if it stopped the run. Outputs are undefined then.
   * @throws {OrtError} If the run failed; the session stays usable.
   */
  async run(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#place !== "cpu") return await this.#runOnDevice(this.#place);
    const { api } = this.#runtime;
    const handle = this.#idle;
    const terminate = () => api.check(api.fn.RunOptionsSetTerminate(this.#runOptions));
    signal?.addEventListener("abort", terminate, { once: true });
    this.#running = true;
    try {
      const status = await api.slow.RunWithBinding(this.#session.handle, this.#runOptions, handle);
      if (signal?.aborted) {
        if (status !== null) api.fn.ReleaseStatus(status);
        throw signal.reason;
      }
      api.check(status);
    } finally {
      this.#running = false;
      signal?.removeEventListener("abort", terminate);
      if (signal?.aborted) api.check(api.fn.RunOptionsUnsetTerminate(this.#runOptions));
    }
  }

  async #runOnDevice(place: Exclude<RunPlace, "cpu">): Promise<void> {
    const { api } = this.#runtime;
    const handle = this.#idle;
    this.#running = true;
    try {
      api.check(api.fn.LaunchWithBinding(this.#session.handle, this.#runOptions, handle));
      if (place === "device") api.check(await api.slow.SynchronizeBoundOutputs(handle));
      else await setImmediate();
    } finally {
      this.#running = false;
    }
  }

  /** Frees the binding, not its tensors. @throws {TypeError} If a run is under way. */
  close(): void {
    if (this.#handle === null) return;
    const handle = this.#idle;
    const { fn } = this.#runtime.api;
    fn.ReleaseIoBinding(handle);
    fn.ReleaseRunOptions(this.#runOptions);
    this.#handle = null;
    this.#inputs.clear();
    this.#outputs.clear();
    this.#onClose();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** The handle, if no run is using it. */
  get #idle(): Handle {
    if (this.#handle === null) throw new TypeError("Cannot use a binding after it was closed");
    if (this.#running) throw new TypeError("Cannot change or run a binding while it is running");
    return this.#handle;
  }

  #encoded(name: string): Uint8Array<ArrayBuffer> {
    let encoded = this.#encodedNames.get(name);
    if (encoded === undefined) this.#encodedNames.set(name, encoded = cString(name));
    return encoded;
  }

  #checkName(name: string, names: readonly string[], kind: string): void {
    if (this.#encodedNames.has(name) || names.includes(name)) return;
    throw new RangeError(`Cannot bind ${kind} "${name}": the graph has ${names.join(", ")}`);
  }
}

/** Opens a session on a thread of its own. @throws {OrtError} If the graph is invalid or a file is missing. */
export async function openSession(runtime: Runtime, options: SessionOptions): Promise<Session> {
  const { api } = runtime;
  const { fn } = api;
  const settings = api.create((out) => fn.CreateSessionOptions(out));
  try {
    api.check(fn.SetIntraOpNumThreads(settings, options.threads));
    api.check(fn.SetInterOpNumThreads(settings, 1));
    api.check(fn.SetSessionGraphOptimizationLevel(settings, options.optimization ?? 99));
    api.check(fn.SetSessionLogSeverityLevel(settings, 4));
    // Patterns pay only where shapes repeat. On a device they put all constants into one allocation: thousands of their own
    // would each be rounded up to the device's pages.
    if (options.cuda === undefined) api.check(fn.DisableMemPattern(settings));
    const config = (key: string, value: string) =>
      api.check(fn.AddSessionConfigEntry(settings, cString(key), cString(value)));
    // Spinning between nodes is what makes small nodes fast; between runs it would burn a core for nothing.
    config("session.force_spinning_stop", "1");
    if (options.folder !== undefined) {
      config("session.model_external_initializers_file_folder_path", options.folder);
    }
    if (options.profilePrefix !== undefined) api.check(fn.EnableProfiling(settings, cString(options.profilePrefix)));
    if (options.cuda !== undefined) {
      appendCudaProvider(api, settings, options.cuda);
      if (options.cuda.everyNode) config("session.disable_cpu_ep_fallback", "1");
    }
    if (options.operators !== undefined) api.check(fn.RegisterCustomOpsLibrary(settings, cString(options.operators)));
    for (const [name, tensor] of options.initializers ?? []) {
      api.check(fn.AddInitializer(settings, cString(name), tensor.value));
    }
    const bytes = encodeModel(options.model);
    const handle = await api.createSlowly((out) =>
      api.slow.CreateSessionFromArray(runtime.environment, bytes, BigInt(bytes.byteLength), settings, out)
    );
    return new Session(runtime, handle, { pinned: options.initializers, cuda: options.cuda ?? null });
  } finally {
    fn.ReleaseSessionOptions(settings);
  }
}
