import { type CApi, cStrings, type Handle } from "./c_api.ts";

/** How a session uses a CUDA device. It is the first that the process sees: `CUDA_VISIBLE_DEVICES` chooses. */
export interface CudaOptions {
  /**
   * Lets bindings capture their runs as CUDA graphs. What is captured belongs to the thread that ran it, so such a session is
   * run by one thread.
   */
  readonly capture: boolean;
  /** Refuses a graph of which a node would run on the CPU. */
  readonly everyNode: boolean;
}

/**
 * Adds the CUDA provider to session options.
 *
 * @throws {OrtError} If this build of ONNX Runtime has none, or its libraries are not there; the message names them.
 */
export function appendCudaProvider(api: CApi, settings: Handle, { capture }: CudaOptions): void {
  const { fn } = api;
  const options = api.create((out) => fn.CreateCudaProviderOptions(out));
  try {
    const entries = {
      device_id: "0",
      // Doubling would take up to twice what is needed; the largest steps are run once when a session is opened.
      arena_extend_strategy: "kSameAsRequested",
      enable_cuda_graph: capture ? "1" : "0",
      do_copy_in_default_stream: "1",
      use_tf32: "0",
    };
    const [keys, values] = [cStrings(Object.keys(entries)), cStrings(Object.values(entries))];
    api.check(fn.UpdateCudaProviderOptions(options, keys, values, BigInt(Object.keys(entries).length)));
    api.check(fn.AppendCudaProvider(settings, options));
  } finally {
    fn.ReleaseCudaProviderOptions(options);
  }
}
