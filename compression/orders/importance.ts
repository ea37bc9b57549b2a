import type { Statistic } from "../../models/dense_block.ts";
import { mambaOf } from "../../models/description.ts";
import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import { gramOf } from "../gram.ts";
import { queryKeyOrder } from "../query_key_order.ts";
import { ridgeLeverageOrder } from "../ridge_leverage.ts";
import { headChannelOrder, stateOrder } from "../state_space_order.ts";
import { ofScanInputs, stateEnergies, stateGrams } from "../state_space_statistics.ts";
import { valueOutputBases } from "../value_output_rotation.ts";
import type { WholeOrder } from "./order.ts";

/** UniQL's order (uniql.md §3), and what other orders fall back on. */
export const importance: WholeOrder = {
  /** Ridge leverage (§3.3), of `hidden_gram` `[F, F]`, `XᵀX` of the channels. */
  mlpChannels: {
    statistics: ({ intermediateSize }) => (graph, activation, value) =>
      activation === "hidden.0" ? [gramOf("hidden_gram", graph, { value, width: intermediateSize })] : [],
    order: (_weights, { statistics, algebra, ridge, config: { intermediateSize } }) =>
      ridgeLeverageOrder(algebra, { gram: statistics.get("hidden_gram")!, size: intermediateSize, lambda: ridge }),
  },

  /**
   * Shares in the logits (§3.4), of `energies` `[H + G, K]`: sums of squares of query and key components after RoPE, in
   * packed order.
   */
  queryKey: {
    statistics: ({ numAttentionHeads: H, numKeyValueHeads: G, headDim: K }) =>
      ofHeads((graph, value) => {
        const compared = heads(graph, value, 0, H + G);
        const squares = graph.op("ReduceSum", [graph.op("Mul", [compared, compared]), graph.integers([0])], {
          attributes: { keepdims: 0 },
        });
        return [{ name: "energies", shape: [H + G, K], increment: squares }];
      }),
    order(_tensors, { statistics, config }) {
      const energies = statistics.get("energies")!;
      const queries = config.numAttentionHeads * config.headDim;
      return queryKeyOrder({ query: energies.subarray(0, queries), key: energies.subarray(queries) }, config);
    },
  },

  /** Rotation to the axes that carry most (§3.5), of `value_gram` `[G, K, K]`: `VᵀV` per key/value head, without bias. */
  values: {
    statistics: ({ numAttentionHeads: H, numKeyValueHeads: G, headDim: K }) =>
      ofHeads((graph, value) => {
        const values = graph.op("Transpose", [heads(graph, value, H + G, H + 2 * G)], {
          attributes: { perm: [1, 0, 2] },
        });
        const transposed = graph.op("Transpose", [values], { attributes: { perm: [0, 2, 1] } });
        return [{ name: "value_gram", shape: [G, K, K], increment: graph.op("MatMul", [transposed, values]) }];
      }),
    kept: "value_gram",
    order: async (tensors, { statistics, algebra, config }) => ({
      bases: await valueOutputBases(algebra, tensors, statistics.get("value_gram")!, config),
    }),
  },

  /** Ridge leverage in each head's states (§3.7); see `stateGrams`. */
  mambaChannels: {
    statistics: (config) => ofScanInputs((graph, inputs) => stateGrams(graph, inputs, mambaOf(config))),
    order: (_tensors, { statistics, algebra, ridge, config }) =>
      headChannelOrder(algebra, { grams: statistics.get("state_grams")!, lambda: ridge }, mambaOf(config)),
  },

  /** What is written and read (§3.6); see `stateEnergies`. */
  mambaStates: {
    statistics: (config) => ofScanInputs((graph, inputs) => stateEnergies(graph, inputs, mambaOf(config))),
    order: (_tensors, { statistics, config }) =>
      stateOrder(
        { stepped: statistics.get("stepped_energies")!, read: statistics.get("read_energies")! },
        mambaOf(config),
      ),
  },
};

/** A statistic of attention's heads `[rows, H + 2G, K]`: queries and keys after RoPE, and values. */
function ofHeads(build: (graph: GraphBuilder, value: Value) => ReturnType<Statistic>): Statistic {
  return (graph, activation, value) => activation === "heads" ? build(graph, value) : [];
}

function heads(graph: GraphBuilder, value: Value, start: number, end: number): Value {
  return graph.op("Slice", [value, graph.integers([start]), graph.integers([end]), graph.integers([1])]);
}
