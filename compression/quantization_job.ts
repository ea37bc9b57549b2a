import type { Hessian } from "./hessian.ts";

/** One matrix to be quantized, its columns in the order in which they are stored. */
export interface QuantizationJob {
  /** `[outFeatures, inFeatures]` */
  readonly weight: Float32Array<ArrayBuffer>;
  readonly outFeatures: number;
  readonly inFeatures: number;
  /** First column of each group that shares a scale; see `groupStartsOf`. */
  readonly groupStarts: readonly number[];
  /** First column of each segment that is stored, and cut, as a whole; some of the above. */
  readonly segmentStarts: readonly number[];
  /** Of the inputs, in the order of the columns. */
  readonly hessian: Hessian;
  /** Choose scales that make the error small where inputs are large, instead of ones that cover the greatest weight. */
  readonly scaleSearch: boolean;
}
