import { packOriginal, readBlock } from "../../models/block_tensors.ts";
import type { Checkpoint } from "../../models/checkpoint.ts";
import type { BlockWeights } from "../../models/dense_block.ts";
import type { Weights } from "../../models/graph/weights.ts";
import { originalPairs } from "../../models/layout.ts";
import type { ModelPlan } from "../../models/plan.ts";
import { ElementType, type GraphBuilder } from "../../onnx/mod.ts";

type Floats = Float32Array<ArrayBuffer>;

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
    const { name } = plans[index]!;
    const weights = packOriginal(config, await readBlock(checkpoint, block));
    parameters.set(`${name}.norm`, weights.norm);
    for (const [part, data] of matricesOf(weights)) parameters.set(`${name}.${part}`, data);
  }
  return parameters;
}

function matricesOf(weights: BlockWeights): [string, Floats][] {
  switch (weights.kind) {
    case "attention": {
      const biases = Object.entries({ "qkv.0.bias": weights.qkvBias, "output.0.bias": weights.outputBias });
      return [
        ["qkv.0.weight", weights.qkv],
        ["output.0.weight", weights.output],
        ...biases.filter((entry): entry is [string, Floats] => entry[1] !== null),
      ];
    }
    case "gatedMlp":
      return [["gate_up.0.weight", weights.gateUp], ["down.0.weight", weights.down]];
    default:
      return weights satisfies never;
  }
}

/** Float32 weights inside the model itself, for models that are small. @param parameters As `packedParameters` gives. */
export function constantWeights(parameters: ReadonlyMap<string, Floats>, plan: ModelPlan): Weights {
  const pairs = originalPairs(plan.config).flat();
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
