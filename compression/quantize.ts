import type { LinearAlgebra } from "../kernels/matrix.ts";
import { groupEndsOf, type Int4Codes, reconstruct } from "../models/int4.ts";
import { outputEnergy } from "./hessian.ts";
import { nearest } from "./nearest.ts";
import type { QuantizationJob } from "./quantization_job.ts";
import { segmentedGptq } from "./segmented_gptq.ts";

const METHODS = {
  gptq: segmentedGptq,
  // deno-lint-ignore require-await -- one signature for both
  nearest: async (_algebra: LinearAlgebra, job: QuantizationJob) => nearest(job),
} satisfies Record<string, (algebra: LinearAlgebra, job: QuantizationJob) => Promise<Int4Codes>>;

export type QuantizationMethod = keyof typeof METHODS;

export interface QuantizedMatrix {
  readonly int4: Int4Codes;
  /** What it stands for, `[outFeatures, inFeatures]`. */
  readonly reconstruction: Float32Array<ArrayBuffer>;
  /** Squared error of the outputs over their squared size, on the calibration inputs: `tr(ΔHΔᵀ) / tr(WHWᵀ)`. */
  readonly relativeSquaredError: number;
}

/**
 * Quantizes a matrix to int4. Rows do not influence each other, so matrices with the same input may be stacked.
 *
 * @throws {RangeError} If shapes do not fit, a weight is not finite, a scale is beyond float16, or squares of
 * outputs are beyond float32.
 */
export async function quantize(
  algebra: LinearAlgebra,
  method: QuantizationMethod,
  job: QuantizationJob,
): Promise<QuantizedMatrix> {
  checkJob(job);
  const { weight, hessian } = job;
  const int4 = await METHODS[method](algebra, job);
  const reconstruction = reconstruct(int4);
  const difference = weight.slice();
  for (let i = 0; i < weight.length; i++) difference[i]! -= reconstruction[i]!;
  const size = await outputEnergy(algebra, weight, hessian);
  const error = await outputEnergy(algebra, difference, hessian);
  // An infinite size alone would make any error a share of zero.
  if (!Number.isFinite(size + error)) {
    const shape = `[${job.outFeatures}, ${job.inFeatures}]`;
    throw new RangeError(
      `Cannot quantize a matrix ${shape}: its outputs' squared size is ${size}, of the error ${error}`,
    );
  }
  return { int4, reconstruction, relativeSquaredError: size === 0 ? 0 : error / size };
}

function checkJob({ weight, outFeatures, inFeatures, groupStarts, hessian }: QuantizationJob): void {
  const problems: string[] = [];
  if (weight.length !== outFeatures * inFeatures) problems.push(`it has ${weight.length} elements`);
  if (hessian.inFeatures !== inFeatures) problems.push(`its Hessian is of order ${hessian.inFeatures}`);
  const wrong = weight.findIndex((value) => !Number.isFinite(value));
  if (wrong !== -1) {
    problems.push(`row ${Math.floor(wrong / inFeatures)}, column ${wrong % inFeatures} is ${weight[wrong]}`);
  }
  if (problems.length > 0) {
    throw new RangeError(`Cannot quantize a matrix [${outFeatures}, ${inFeatures}]: ${problems.join("; ")}`);
  }
  groupEndsOf(groupStarts, inFeatures);
}
