import type { Runtime } from "../onnx/mod.ts";

/** What a run of `compress` needs of whoever starts it. */
export interface CompressContext {
  readonly runtime: Runtime;
  /** Told how far the work is: in shares of the whole, 0 to 1, and what is being done. */
  readonly progress: (share: number, label: string) => void;
  /** Told in a sentence what whoever waits should know. */
  readonly say: (message: string) => void;
  /** Milliseconds of a monotonic clock. */
  readonly now: () => number;
  /** An interrupted run loses at most about so much work. */
  readonly saveEveryMs: number;
  readonly signal?: AbortSignal;
}
