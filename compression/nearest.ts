import { groupEndsOf, type Int4Codes, nearestCode, roundToNearest, ZERO_POINT } from "../models/int4.ts";
import type { QuantizationJob } from "./quantization_job.ts";
import { searchScale } from "./scale_search.ts";

/** Plain rounding: every weight to its nearest code, whatever the others do. */
export function nearest(job: QuantizationJob): Int4Codes {
  return job.scaleSearch ? withSearchedScales(job) : roundToNearest(job.weight, job);
}

function withSearchedScales({ weight, outFeatures, inFeatures, groupStarts, hessian }: QuantizationJob): Int4Codes {
  const ends = groupEndsOf(groupStarts, inFeatures);
  const codes = new Uint8Array(weight.length);
  const scales = new Float16Array(outFeatures * ends.length);
  const importance = Float64Array.from({ length: inFeatures }, (_, i) => hessian.gram[i * (inFeatures + 1)]!);
  for (let group = 0; group < ends.length; group++) {
    const start = groupStarts[group]!;
    const count = ends[group]! - start;
    const groupImportance = importance.subarray(start, start + count);
    const weights = new Float64Array(count);
    for (let row = 0; row < outFeatures; row++) {
      const from = row * inFeatures + start;
      for (let i = 0; i < count; i++) weights[i] = weight[from + i]!;
      const scale = searchScale(weights, groupImportance, count);
      const inverse = 1 / scale;
      for (let i = 0; i < count; i++) codes[from + i] = nearestCode(weights[i]! * inverse) + ZERO_POINT;
      scales[row * ends.length + group] = scale;
    }
  }
  return { outFeatures, inFeatures, groupStarts, codes, scales: new Uint16Array(scales.buffer) };
}
