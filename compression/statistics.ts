import type { GraphBuilder, Value } from "../onnx/mod.ts";
import type { ModelConfig } from "../models/description.ts";
import type { Accumulator, Statistic } from "../models/dense_block.ts";

/**
 * What the orders and rotations are made from (uniql.md §3.1), added up over all calibration tokens:
 *
 * | name | shape | |
 * |---|---|---|
 * | `energies` | `[H + G, K]` | sums of squares of query and key components after RoPE, pairs side by side |
 * | `value_gram` | `[G, K, K]` | `VᵀV` per key/value head, without bias |
 * | `hidden_gram` | `[F, F]` | of the MLP's hidden channels |
 */
export function orderStatistics(config: ModelConfig): Statistic {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K, intermediateSize: F } = config;
  return (graph, activation, value) => {
    switch (activation) {
      case "heads": {
        const heads = (start: number, end: number) =>
          graph.op("Slice", [value, graph.integers([start]), graph.integers([end]), graph.integers([1])]);
        const rotary = heads(0, H + G);
        const squares = graph.op("ReduceSum", [graph.op("Mul", [rotary, rotary]), graph.integers([0])], {
          attributes: { keepdims: 0 },
        });
        const values = graph.op("Transpose", [heads(H + G, H + 2 * G)], { attributes: { perm: [1, 0, 2] } });
        const transposed = graph.op("Transpose", [values], { attributes: { perm: [0, 2, 1] } });
        return [
          { name: "energies", shape: [H + G, K], increment: squares },
          { name: "value_gram", shape: [G, K, K], increment: graph.op("MatMul", [transposed, values]) },
        ];
      }
      case "hidden.0":
        return [gramOf("hidden_gram", graph, value, F)];
      default:
        return [];
    }
  };
}

/** The Gram matrices that GPTQ takes as Hessians: of what each linear of the block reads, named `….gram`. */
export function hessianStatistics(config: ModelConfig): Statistic {
  const { hiddenSize, intermediateSize, numAttentionHeads, headDim } = config;
  const widths: Readonly<Record<string, number>> = {
    "input": hiddenSize,
    "attended.0": numAttentionHeads * headDim,
    "hidden.0": intermediateSize,
  };
  return (graph, activation, value) => {
    const width = widths[activation];
    return width === undefined ? [] : [gramOf(`${activation}.gram`, graph, value, width)];
  };
}

/** `XᵀX` of `[rows, width]`. */
function gramOf(name: string, graph: GraphBuilder, value: Value, width: number): Accumulator {
  return { name, shape: [width, width], increment: graph.op("Gemm", [value, value], { attributes: { transA: 1 } }) };
}
