/**
 * ONNX Runtime's C API, called through Deno FFI.
 *
 * The library exports one symbol, `OrtGetApiBase`. It returns two function pointers; the first, given an API version,
 * returns a table of function pointers. A table only ever grows at its end, so a slot stays valid in every later
 * version. A wrong signature is not an error but a crash: change a slot only with the header at hand.
 *
 * Needs `--allow-ffi` without a path: Deno refuses to read memory or call table entries under a path-scoped grant.
 */

/** The lowest API version that has every slot below; older libraries (a Jetson's own build) are welcome. */
const API_VERSION = 17;

/** `pointer` is a handle; `buffer` is memory of ours that is read or written during the call only. */
const FUNCTIONS = {
  GetErrorCode: { index: 1, parameters: ["pointer"], result: "i32" },
  GetErrorMessage: { index: 2, parameters: ["pointer"], result: "pointer" },
  CreateEnv: { index: 3, parameters: ["i32", "buffer", "buffer"], result: "pointer" },
  CreateSessionOptions: { index: 10, parameters: ["buffer"], result: "pointer" },
  SetOptimizedModelFilePath: { index: 11, parameters: ["pointer", "buffer"], result: "pointer" },
  EnableProfiling: { index: 14, parameters: ["pointer", "buffer"], result: "pointer" },
  DisableMemPattern: { index: 17, parameters: ["pointer"], result: "pointer" },
  SetSessionLogSeverityLevel: { index: 22, parameters: ["pointer", "i32"], result: "pointer" },
  SetSessionGraphOptimizationLevel: { index: 23, parameters: ["pointer", "i32"], result: "pointer" },
  SetIntraOpNumThreads: { index: 24, parameters: ["pointer", "i32"], result: "pointer" },
  SetInterOpNumThreads: { index: 25, parameters: ["pointer", "i32"], result: "pointer" },
  SessionGetInputCount: { index: 30, parameters: ["pointer", "buffer"], result: "pointer" },
  SessionGetOutputCount: { index: 31, parameters: ["pointer", "buffer"], result: "pointer" },
  SessionGetInputName: { index: 36, parameters: ["pointer", "usize", "pointer", "buffer"], result: "pointer" },
  SessionGetOutputName: { index: 37, parameters: ["pointer", "usize", "pointer", "buffer"], result: "pointer" },
  CreateRunOptions: { index: 39, parameters: ["buffer"], result: "pointer" },
  RunOptionsSetTerminate: { index: 46, parameters: ["pointer"], result: "pointer" },
  RunOptionsUnsetTerminate: { index: 47, parameters: ["pointer"], result: "pointer" },
  CreateTensorWithDataAsOrtValue: {
    index: 49,
    parameters: ["pointer", "pointer", "usize", "buffer", "usize", "i32", "buffer"],
    result: "pointer",
  },
  CreateMemoryInfo: { index: 68, parameters: ["buffer", "i32", "i32", "i32", "buffer"], result: "pointer" },
  CreateCpuMemoryInfo: { index: 69, parameters: ["i32", "i32", "buffer"], result: "pointer" },
  AllocatorFree: { index: 76, parameters: ["pointer", "pointer"], result: "pointer" },
  GetAllocatorWithDefaultOptions: { index: 78, parameters: ["buffer"], result: "pointer" },
  ReleaseStatus: { index: 93, parameters: ["pointer"], result: "void" },
  ReleaseSession: { index: 95, parameters: ["pointer"], result: "void" },
  ReleaseValue: { index: 96, parameters: ["pointer"], result: "void" },
  ReleaseRunOptions: { index: 97, parameters: ["pointer"], result: "void" },
  ReleaseSessionOptions: { index: 100, parameters: ["pointer"], result: "void" },
  SessionEndProfiling: { index: 110, parameters: ["pointer", "pointer", "buffer"], result: "pointer" },
  AddSessionConfigEntry: { index: 130, parameters: ["pointer", "buffer", "buffer"], result: "pointer" },
  CreateIoBinding: { index: 134, parameters: ["pointer", "buffer"], result: "pointer" },
  ReleaseIoBinding: { index: 135, parameters: ["pointer"], result: "void" },
  BindInput: { index: 136, parameters: ["pointer", "buffer", "pointer"], result: "pointer" },
  BindOutput: { index: 137, parameters: ["pointer", "buffer", "pointer"], result: "pointer" },
  AddRunConfigEntry: { index: 165, parameters: ["pointer", "buffer", "buffer"], result: "pointer" },
  AppendCudaProvider: { index: 204, parameters: ["pointer", "pointer"], result: "pointer" },
  CreateCudaProviderOptions: { index: 205, parameters: ["buffer"], result: "pointer" },
  UpdateCudaProviderOptions: { index: 206, parameters: ["pointer", "buffer", "buffer", "usize"], result: "pointer" },
  ReleaseCudaProviderOptions: { index: 208, parameters: ["pointer"], result: "void" },
  RegisterCustomOpsLibrary: { index: 228, parameters: ["pointer", "buffer"], result: "pointer" },
  AddInitializer: { index: 150, parameters: ["pointer", "buffer", "pointer"], result: "pointer" },
  /** `RunWithBinding` on the calling thread: what a device has to do is only handed to it. */
  LaunchWithBinding: { index: 133, parameters: ["pointer", "pointer", "pointer"], result: "pointer" },
} as const satisfies Record<string, { index: number } & Deno.ForeignFunction>;

/** Calls that may take long; they run on a thread of their own, so the event loop stays free. */
const SLOW_FUNCTIONS = {
  CreateSession: { index: 7, parameters: ["pointer", "buffer", "pointer", "buffer"], result: "pointer" },
  CreateSessionFromArray: {
    index: 8,
    parameters: ["pointer", "buffer", "usize", "pointer", "buffer"],
    result: "pointer",
  },
  RunWithBinding: { index: 133, parameters: ["pointer", "pointer", "pointer"], result: "pointer" },
  SynchronizeBoundOutputs: { index: 203, parameters: ["pointer"], result: "pointer" },
} as const satisfies Record<string, { index: number } & Deno.ForeignFunction>;

type Functions = { readonly [Name in keyof typeof FUNCTIONS]: Deno.FromForeignFunction<typeof FUNCTIONS[Name]> };
type SlowFunctions = {
  readonly [Name in keyof typeof SLOW_FUNCTIONS]: Deno.FromForeignFunction<
    typeof SLOW_FUNCTIONS[Name] & { nonblocking: true }
  >;
};

/** An address that is never null: a session, a tensor, an option set. */
export type Handle = Deno.PointerObject;

/** What a failed call reports. Codes: 1 fail, 2 invalid argument, 3 no such file, 6 run-time error, 10 invalid graph. */
export class OrtError extends Error {
  override readonly name = "OrtError";
  constructor(readonly code: number, message: string) {
    super(message);
  }
}

/** The function table of one loaded library. The library is never closed: sessions may outlive any scope of ours. */
export class CApi {
  readonly version: string;
  /** Most entries return a status: give it to `check`, or call through `create`. */
  readonly fn: Functions;
  readonly slow: SlowFunctions;

  /** @throws {TypeError} If the library cannot be loaded or is older than the API asked for. */
  constructor(libraryPath: string) {
    const library = open(libraryPath);
    const base = new Deno.UnsafePointerView(notNull(library.symbols.OrtGetApiBase(), "OrtGetApiBase"));
    const getApi = new Deno.UnsafeFnPointer(
      notNull(base.getPointer<{ parameters: ["u32"]; result: "pointer" }>(0), "GetApi"),
      { parameters: ["u32"], result: "pointer" },
    );
    const getVersion = new Deno.UnsafeFnPointer(
      notNull(base.getPointer<{ parameters: []; result: "pointer" }>(8), "GetVersionString"),
      { parameters: [], result: "pointer" },
    );
    this.version = readCString(getVersion.call());
    const table = getApi.call(API_VERSION);
    if (table === null) {
      throw new TypeError(`Cannot use ${libraryPath}: ONNX Runtime ${this.version} lacks API version ${API_VERSION}`);
    }
    const view = new Deno.UnsafePointerView(table);
    this.fn = bindSlots(view, FUNCTIONS, {}) as Functions;
    this.slow = bindSlots(view, SLOW_FUNCTIONS, { nonblocking: true }) as SlowFunctions;
  }

  /**
   * Turns a status into an exception and releases it.
   *
   * @param status What a call returned; null means success.
   * @throws {OrtError} If the call failed.
   */
  check(status: Deno.PointerValue): void {
    if (status === null) return;
    const error = new OrtError(this.fn.GetErrorCode(status), readCString(this.fn.GetErrorMessage(status)));
    this.fn.ReleaseStatus(status);
    throw error;
  }

  /** Calls a function whose last parameter receives a handle, and returns that handle. */
  create(call: (out: BigUint64Array<ArrayBuffer>) => Deno.PointerValue): Handle {
    const out = new BigUint64Array(1);
    this.check(call(out));
    return notNull(Deno.UnsafePointer.create(out[0]!), "result");
  }

  /** `create` for a call that runs on another thread. */
  async createSlowly(call: (out: BigUint64Array<ArrayBuffer>) => Promise<Deno.PointerValue>): Promise<Handle> {
    const out = new BigUint64Array(1);
    this.check(await call(out));
    return notNull(Deno.UnsafePointer.create(out[0]!), "result");
  }

  /** Calls a function whose last parameter receives a size. */
  size(call: (out: BigUint64Array<ArrayBuffer>) => Deno.PointerValue): number {
    const out = new BigUint64Array(1);
    this.check(call(out));
    return Number(out[0]);
  }

  /** Calls a function that allocates a C string, copies the string and frees the original. */
  string(call: (allocator: Handle, out: BigUint64Array<ArrayBuffer>) => Deno.PointerValue): string {
    const allocator = this.create((out) => this.fn.GetAllocatorWithDefaultOptions(out)); // shared, never released
    const pointer = this.create((out) => call(allocator, out));
    const text = readCString(pointer);
    this.check(this.fn.AllocatorFree(allocator, pointer));
    return text;
  }
}

/** The bytes of a C string, terminator included. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

/** An array of C strings: their addresses, and behind these in the same memory, so that it lives as long, the strings. */
export function cStrings(texts: readonly string[]): Uint8Array<ArrayBuffer> {
  const strings = texts.map(cString);
  const table = new Uint8Array(strings.reduce((sum, { length }) => sum + length, 8 * texts.length));
  const base = Deno.UnsafePointer.value(Deno.UnsafePointer.of(table));
  const view = new DataView(table.buffer);
  let offset = 8 * texts.length;
  for (const [index, string] of strings.entries()) {
    view.setBigUint64(8 * index, BigInt(base) + BigInt(offset), true);
    table.set(string, offset);
    offset += string.length;
  }
  return table;
}

function open(libraryPath: string) {
  try {
    return Deno.dlopen(libraryPath, { OrtGetApiBase: { parameters: [], result: "pointer" } });
  } catch (cause) {
    throw new TypeError(`Cannot load ONNX Runtime from ${libraryPath}: ${(cause as Error).message}`, { cause });
  }
}

function bindSlots(
  view: Deno.UnsafePointerView,
  slots: Record<string, { index: number } & Deno.ForeignFunction>,
  extra: { nonblocking?: true },
): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(slots).map(([name, { index, parameters, result }]) => {
      const definition = { parameters, result, ...extra } as Deno.ForeignFunction;
      const entry = notNull(view.getPointer<Deno.ForeignFunction>(8 * index), `slot ${index}`);
      const pointer = new Deno.UnsafeFnPointer(entry, definition);
      return [name, pointer.call.bind(pointer)];
    }),
  );
}

function readCString(pointer: Deno.PointerValue): string {
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}

function notNull<T>(value: T | null, what: string): T {
  if (value === null) throw new TypeError(`Cannot use ${what}: the library returned null`);
  return value;
}
