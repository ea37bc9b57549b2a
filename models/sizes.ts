/** How large a variant is. Everything is counted from the plan, so the figures are those of the file. */

import {
  blockMatrices,
  headMatrix,
  headRotationMatrix,
  type Matrix,
  type ModelPlan,
  modelVectors,
  outerMatrices,
} from "./plan.ts";
import { SAFETENSORS_DTYPES } from "./safetensors.ts";
import { matrixTensors } from "./stored_tensors.ts";

export interface VariantSize {
  /** Weights and biases that the level uses, the embedding once if it is the head as well. */
  readonly parameters: number;
  /** Bytes that hold them: codes, float16 scales, float32 vectors and biases. */
  readonly bytes: number;
  /** Bytes of weights that one token of a sequence reads: all but the embedding, of which it reads a row. */
  readonly bytesPerToken: number;
}

/**
 * @param level Index of a prepared rate.
 * @param blockSize Weights that share a scale.
 */
export function variantSize(plan: ModelPlan, level: number, blockSize: number): VariantSize {
  const { config } = plan;
  const blocks = plan.layers.flat().flatMap((block) =>
    blockMatrices(config, block).filter(({ chunk }) => level <= chunk.level).map(({ matrix }) => matrix)
  );
  const vectors = sum(modelVectors(plan).map(({ length }) => length));
  const stored = [...outerMatrices(plan), ...blocks];
  const readWhole = [headMatrix(config), ...(plan.headRotation ? [headRotationMatrix(config)] : []), ...blocks];
  const embeddingRow = matrixBytes({ ...headMatrix(config), outFeatures: 1 }, blockSize);
  return {
    parameters: sum(stored.map(({ outFeatures, inFeatures, bias }) => outFeatures * (inFeatures + Number(bias)))) +
      vectors,
    bytes: sum(stored.map((matrix) => matrixBytes(matrix, blockSize))) + 4 * vectors,
    bytesPerToken: sum(readWhole.map((matrix) => matrixBytes(matrix, blockSize))) + 4 * vectors + embeddingRow,
  };
}

function matrixBytes(matrix: Matrix, blockSize: number): number {
  return sum(
    matrixTensors(matrix, blockSize).map(({ dtype, shape }) =>
      shape.reduce((product, size) => product * size, SAFETENSORS_DTYPES[dtype])
    ),
  );
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
