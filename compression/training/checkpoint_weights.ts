import { packOriginal, readBlock } from "../../models/block_tensors.ts";
import type { Checkpoint } from "../../models/checkpoint.ts";
import { blockVector, type BlockWeights } from "../../models/dense_block.ts";
import { type ModelConfig, rotaryDimOf } from "../../models/description.ts";
import type { Floats } from "../../models/floats.ts";
import type { Weights } from "../../models/graph/weights.ts";
import { originalPairs, pairPlaces } from "../../models/layout.ts";
import { type BlockPlan, blockVectors, type ModelPlan } from "../../models/plan.ts";
import { ElementType, type GraphBuilder } from "../../onnx/mod.ts";
import { methodOf } from "../blocks/mod.ts";

/**
 * Every parameter of a checkpoint, packed, by the name that `floatWeights` gives its input.
 *
 * @param plan Of one level.
 */
export async function packedParameters(checkpoint: Checkpoint, plan: ModelPlan): Promise<Map<string, Floats>> {
  const { description: { config, layers, embedding, finalNorm, head } } = checkpoint;
  const parameters = new Map<string, Floats>([
    ["embedding.weight", await checkpoint.read(embedding)],
    ["final_norm", await checkpoint.read(finalNorm)],
  ]);
  if (head !== null) parameters.set("head.weight", await checkpoint.read(head));
  const plans = plan.layers.flat();
  for (const [index, block] of layers.flat().entries()) {
    const blockPlan = plans[index]!;
    const weights = packOriginal(config, await readBlock(checkpoint, block));
    for (const [name, data] of namedWeights(config, blockPlan, weights)) parameters.set(name, data);
  }
  return parameters;
}

/** A block's packed weights by the names that its graph gives them. */
export function namedWeights(config: ModelConfig, plan: BlockPlan, weights: BlockWeights): [string, Floats][] {
  const packed = weights as unknown as Readonly<Record<string, Floats | null>>;
  const named = methodOf(plan.kind).projections.flatMap(({ weight, bias, stored }): [string, Floats | null][] => {
    const { name } = stored(config, plan)[0]!;
    return [[`${name}.weight`, packed[weight]!], [`${name}.bias`, bias === undefined ? null : packed[bias]!]];
  });
  const vectors = blockVectors(config, plan).map(({ name }): [string, Floats] => [
    name,
    blockVector(weights, name.slice(plan.name.length + 1)),
  ]);
  return [...named, ...vectors].filter((entry): entry is [string, Floats] => entry[1] !== null);
}

/** Float32 weights inside the model itself, for models that are small. @param parameters As `packedParameters` gives. */
export function constantWeights(parameters: ReadonlyMap<string, Floats>, plan: ModelPlan): Weights {
  const head = { rotaryDim: rotaryDimOf(plan.config), headDim: plan.config.headDim };
  const pairs = originalPairs(plan.config).flatMap((pairs) => pairPlaces(head, pairs));
  const constant = (graph: GraphBuilder, name: string, shape: readonly number[]) => {
    const data = parameters.get(name);
    if (data === undefined) throw new RangeError(`There is no parameter "${name}"`);
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return graph.initializer(name, ElementType.float32, shape, bytes);
  };
  return {
    product(graph, x, { name, outFeatures, inFeatures, bias }) {
      const weight = constant(graph, `${name}.weight`, [outFeatures, inFeatures]);
      const operands = bias ? [x, weight, constant(graph, `${name}.bias`, [outFeatures])] : [x, weight];
      return graph.op("Gemm", operands, { attributes: { transB: 1 } });
    },
    embed: (graph, tokens, { name, outFeatures, inFeatures }) =>
      graph.op("Gather", [constant(graph, `${name}.weight`, [outFeatures, inFeatures]), tokens]),
    vector: (graph, name, length) => constant(graph, name, [length]),
    pairs: (graph, _block, shape) => graph.integers(pairs, shape),
  };
}
