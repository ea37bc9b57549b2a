import { blockMatrices, type Matrix, type ModelPlan, modelVectors, outerMatrices } from "./plan.ts";
import type { SafetensorsEntry } from "./safetensors_writer.ts";

/** Every tensor of an artefact's `weights.safetensors`, in the order in which they are stored. */
export function storedTensors(plan: ModelPlan, blockSize: number): SafetensorsEntry[] {
  const { config } = plan;
  const matrices = [
    ...outerMatrices(plan),
    ...plan.layers.flat().flatMap((block) => blockMatrices(config, block).map(({ matrix }) => matrix)),
  ];
  return [
    ...matrices.flatMap((matrix) => matrixTensors(matrix, blockSize)),
    ...modelVectors(plan).map(({ name, length }) => ({ name, dtype: "F32" as const, shape: [length] })),
  ];
}

/** A quantized matrix: int4 codes as `MatMulNBits` reads them, their scales, and a bias if it has one. */
export function matrixTensors({ name, outFeatures, inFeatures, bias }: Matrix, blockSize: number): SafetensorsEntry[] {
  const blocks = Math.ceil(inFeatures / blockSize);
  return [
    { name: `${name}.codes`, dtype: "U8", shape: [outFeatures, blocks, blockSize / 2] },
    { name: `${name}.scales`, dtype: "F16", shape: [outFeatures, blocks] },
    ...(bias ? [{ name: `${name}.bias`, dtype: "F32" as const, shape: [outFeatures] }] : []),
  ];
}
