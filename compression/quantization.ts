import type { LinearAlgebra } from "../kernels/matrix.ts";
import type { Floats } from "../models/floats.ts";
import { type BlockSize, groupStartsOf, type Int4Codes, packInt4 } from "../models/int4.ts";
import type { ModelPlan } from "../models/plan.ts";
import type { SafetensorsWriter } from "../models/safetensors_writer.ts";
import type { Hessian } from "./hessian.ts";
import type { HiddenStates } from "./hidden_states.ts";
import { quantize, type QuantizedMatrix } from "./quantize.ts";
import type { Recipe } from "./recipe.ts";
import type { MatrixError } from "./report.ts";

/** What passes between two blocks. */
export interface Streams {
  /** In the quantized network. */
  readonly hidden: HiddenStates;
  /** In the quantized network at `narrowLevel`; null where narrow rates do not count. */
  readonly narrow: HiddenStates | null;
  /** In the float network. */
  readonly reference: HiddenStates;
}

/** The level that stands for all narrow ones where a network has to be run: the middle one. */
export function narrowLevel({ levels }: ModelPlan): number {
  return levels >> 1;
}

export interface Quantization {
  readonly algebra: LinearAlgebra;
  readonly plan: ModelPlan;
  readonly blockSize: BlockSize;
  readonly recipe: Pick<Recipe, "quantizer" | "scaleSearch" | "balance" | "narrowShare">;
  /** Tokens of the calibration text. */
  readonly tokens: number;
  readonly writer: SafetensorsWriter;
}

/** What a stored matrix became. */
export interface Quantized {
  /** In the order that was given. */
  readonly reconstruction: Floats;
  /** See `QuantizedMatrix.relativeSquaredError`. */
  readonly relativeSquaredError: number;
}

/**
 * Quantizes a matrix whose inputs are in the order in which they are stored.
 *
 * @param segments Inputs of each segment; groups end where segments do.
 */
export function quantizeColumns(
  { algebra, blockSize, recipe }: Quantization,
  weight: Floats,
  hessian: Hessian,
  segments: readonly number[],
): Promise<QuantizedMatrix> {
  const { inFeatures } = hessian;
  return quantize(algebra, recipe.quantizer, {
    weight,
    outFeatures: weight.length / inFeatures,
    inFeatures,
    groupStarts: groupStartsOf(segments, blockSize),
    segmentStarts: startsOf(segments),
    hessian,
    scaleSearch: recipe.scaleSearch,
  });
}

function startsOf(widths: readonly number[]): number[] {
  let end = 0;
  return widths.map((width) => (end += width) - width);
}

/** Writes a part of what a matrix became. */
export async function writePart(
  writer: SafetensorsWriter,
  name: string,
  int4: Int4Codes,
  part: Parameters<typeof packInt4>[1],
): Promise<void> {
  const { codes, scales } = packInt4(int4, part);
  await writer.write(`${name}.codes`, codes);
  await writer.write(`${name}.scales`, scales);
}

/** For the report. */
export function errorOf(matrix: string, relativeSquaredError: number): MatrixError {
  return { matrix, relativeError: Math.sqrt(relativeSquaredError) };
}
