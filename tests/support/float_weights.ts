import { blockVector } from "../../models/dense_block.ts";
import { densePlan, packOriginal, readBlock } from "../../models/block_tensors.ts";
import type { Checkpoint } from "../../models/checkpoint.ts";
import { rotaryDimOf } from "../../models/description.ts";
import type { Weights } from "../../models/graph/weights.ts";
import { originalPairs, pairPlaces } from "../../models/layout.ts";
import { blockVectors, headMatrix, type ModelPlan } from "../../models/plan.ts";
import { ElementType, type GraphBuilder } from "../../onnx/mod.ts";

/** A checkpoint's float32 weights as constants, so that the serving graph can run it as it is. */
export async function checkpointWeights(checkpoint: Checkpoint): Promise<{ plan: ModelPlan; weights: Weights }> {
  const { description } = checkpoint;
  const { config } = description;
  const plan = densePlan(description);
  const tensors = new Map<string, Float32Array>();
  const put = (name: string, data: Float32Array | null) => data !== null && tensors.set(name, data);
  put("embedding.weight", await checkpoint.read(description.embedding));
  if (description.head !== null) put(`${headMatrix(config).name}.weight`, await checkpoint.read(description.head));
  put("final_norm", await checkpoint.read(description.finalNorm));
  for (const [index, { name, ...block }] of plan.layers.flat().entries()) {
    const packed = packOriginal(config, await readBlock(checkpoint, description.layers.flat()[index]!));
    for (const vector of blockVectors(config, { name, ...block })) {
      put(vector.name, blockVector(packed, vector.name.slice(name.length + 1)));
    }
    switch (packed.kind) {
      case "attention":
        put(`${name}.qkv.0.weight`, packed.qkv);
        put(`${name}.qkv.0.bias`, packed.qkvBias);
        put(`${name}.output.0.weight`, packed.output);
        put(`${name}.output.0.bias`, packed.outputBias);
        break;
      case "gatedMlp":
        put(`${name}.gate_up.0.weight`, packed.gateUp);
        put(`${name}.down.0.weight`, packed.down);
        break;
      case "mlp":
        put(`${name}.up.0.weight`, packed.up);
        put(`${name}.down.0.weight`, packed.down);
        break;
      case "mamba":
        put(`${name}.input.0.weight`, packed.input);
        put(`${name}.output.0.weight`, packed.output);
        break;
      default:
        packed satisfies never;
    }
  }
  const tensor = (graph: GraphBuilder, name: string, shape: readonly number[]) => {
    const data = tensors.get(name);
    if (data === undefined) throw new RangeError(`Cannot find "${name}" in the checkpoint`);
    return graph.initializer(name, ElementType.float32, shape, new Uint8Array(data.buffer as ArrayBuffer));
  };
  const heads = { rotaryDim: rotaryDimOf(config), headDim: config.headDim };
  return {
    plan,
    weights: {
      product(graph, x, { name, outFeatures, inFeatures, bias }) {
        const weight = tensor(graph, `${name}.weight`, [outFeatures, inFeatures]);
        const operands = bias ? [x, weight, tensor(graph, `${name}.bias`, [outFeatures])] : [x, weight];
        return graph.op("Gemm", operands, { attributes: { transB: 1 } });
      },
      embed: (graph, tokens, { name, outFeatures, inFeatures }) =>
        graph.op("Gather", [tensor(graph, `${name}.weight`, [outFeatures, inFeatures]), tokens]),
      vector: (graph, name, length) => tensor(graph, name, [length]),
      pairs: (graph, _block, shape) =>
        graph.integers(originalPairs(config).flatMap((head) => pairPlaces(heads, head)), shape),
    },
  };
}
