import { type LinearAlgebra, matrix } from "../kernels/matrix.ts";
import type { Floats } from "../models/floats.ts";
import { groupEndsOf, type Int4Codes, reconstruct } from "../models/int4.ts";
import { takeColumns } from "../models/layout.ts";
import { descend } from "./coordinate_descent.ts";
import { gptq, withoutDeadColumns } from "./gptq.ts";
import { hessianOfSpan } from "./hessian.ts";
import type { QuantizationJob } from "./quantization_job.ts";

/**
 * GPTQ with coordinate descent inside each segment of columns.
 *
 * A segment is rounded and improved as a whole; then the later ones, which are still free, make up for its error at once,
 * as in GPTQ the later columns do for one column's. Nothing goes back: codes of a segment never make up for what a
 * narrower rate drops.
 */
export async function segmentedGptq(algebra: LinearAlgebra, job: QuantizationJob): Promise<Int4Codes> {
  const { outFeatures, inFeatures, groupStarts, segmentStarts, hessian } = job;
  const ends = groupEndsOf(segmentStarts, inFeatures);
  const work = withoutDeadColumns(job.weight, hessian.dead);
  const codes = new Uint8Array(work.length);
  const scales = new Uint16Array(outFeatures * groupStarts.length);
  for (const [segment, start] of segmentStarts.entries()) {
    const end = ends[segment]!;
    const count = end - start;
    const weight = block(work, inFeatures, start, end);
    const part = {
      ...job,
      weight,
      inFeatures: count,
      groupStarts: groupStarts.filter((group) => group >= start && group < end).map((group) => group - start),
      hessian: hessianOfSpan(hessian, { start, end }),
    };
    const found = await descend(algebra, part, await gptq(algebra, part));
    const firstGroup = groupStarts.indexOf(start);
    for (let row = 0; row < outFeatures; row++) {
      const groups = part.groupStarts.length;
      codes.set(found.codes.subarray(row * count, (row + 1) * count), row * inFeatures + start);
      scales.set(found.scales.subarray(row * groups, (row + 1) * groups), row * groupStarts.length + firstGroup);
    }
    if (end === inFeatures) break;
    // In GPTQ's terms: errors over the diagonal of U, which are `(w − ŵ)·U⁻¹`, times U's part to the right.
    const reconstruction = reconstruct(found);
    const difference = weight.map((value, i) => value - reconstruction[i]!);
    const errors = new Float32Array(difference.length);
    await algebra.multiply(
      matrix(difference, outFeatures, count),
      matrix(part.hessian.factor, count, count),
      matrix(errors, outFeatures, count),
    );
    await algebra.multiply(
      matrix(errors, outFeatures, count),
      matrix(hessian.inverseFactor, count, inFeatures - end, { offset: start * inFeatures + end, stride: inFeatures }),
      matrix(work, outFeatures, inFeatures - end, { offset: end, stride: inFeatures }),
      { alpha: -1, beta: 1 },
    );
  }
  return { outFeatures, inFeatures, groupStarts, codes, scales };
}

/** Columns [start, end) of `[rows, columns]`. */
function block(whole: Floats, columns: number, start: number, end: number): Floats {
  return takeColumns(whole, columns, Array.from({ length: end - start }, (_, i) => start + i));
}
