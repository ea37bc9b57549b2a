import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import type { ModelConfig } from "../../models/description.ts";
import { headComponents, packAttention } from "../../models/layout.ts";
import { outputMatrix, qkvMatrix } from "../../models/plan.ts";
import { columnFactors, divideColumns, multiplyRows } from "../column_balance.ts";
import { queryKeyMagnitudeOrder, queryKeyOrder, queryKeyRandomOrder } from "../query_key_order.ts";
import { randomNumbers } from "../random_numbers.ts";
import {
  changeValueBases,
  permuteValues,
  valueMagnitudeOrder,
  valueOutputBases,
  valueRandomOrder,
} from "../value_output_rotation.ts";
import { spreadValues } from "../value_spread.ts";
import type { BlockMethod } from "./method.ts";

/** Rotary pairs by their share in the logits; values rotated to the axes that carry most (uniql.md §3.4, §3.5). */
export const attentionMethod: BlockMethod<"attention"> = {
  stream: { readers: ["query", "key", "value"], writers: ["output"], biases: ["outputBias"] },
  projections: [
    {
      weight: "qkv",
      bias: "qkvBias",
      input: "input",
      cut: "rows",
      stored: (config, plan) => plan.chunks.map((_, chunk) => qkvMatrix(config, plan, chunk)),
      order: ({ numAttentionHeads, numKeyValueHeads, headDim }, { chunks }) =>
        chunks.flatMap((chunk) => [...headComponents(numAttentionHeads + 2 * numKeyValueHeads, headDim, chunk)]),
    },
    {
      weight: "output",
      bias: "outputBias",
      input: "mixed.0",
      cut: "columns",
      stored: (config, plan) => plan.chunks.map((_, chunk) => outputMatrix(config, plan, chunk)),
      order: ({ numAttentionHeads, headDim }, { chunks }) =>
        chunks.flatMap((chunk) => [...headComponents(numAttentionHeads, headDim, chunk)]),
    },
  ],

  quanta: ({ head }) => ({ widths: head }),

  /**
   * | name | shape | |
   * |---|---|---|
   * | `energies` | `[H + G, K]` | sums of squares of query and key components after RoPE, in packed order |
   * | `value_gram` | `[G, K, K]` | `VᵀV` per key/value head, without bias |
   */
  orderStatistics: (config) => (graph, activation, value) =>
    activation === "heads" ? headStatistics(config, graph, value) : [],

  async order(algebra, { tensors }, statistics, { config, order, seed }) {
    const { numAttentionHeads: H, headDim: K } = config;
    const energies = statistics.get("energies")!;
    const orders = {
      importance: () => queryKeyOrder({ query: energies.subarray(0, H * K), key: energies.subarray(H * K) }, config),
      magnitude: () => queryKeyMagnitudeOrder(tensors, config),
      random: () => queryKeyRandomOrder(config, randomNumbers(seed)),
    }[order]();
    const bases = order === "importance"
      ? await valueOutputBases(algebra, tensors, Float32Array.from(statistics.get("value_gram")!), config)
      : [];
    return {
      kind: "attention",
      ...orders,
      valueEnergies: bases.map(({ energies }) => [...energies]),
    };
  },

  arrangedBy: "value_gram",

  /** Values by rotation to the basis that carries most in its first components, or, for a control, by permutation. */
  async arrange(algebra, block, valueGram, { config, order, seed }) {
    const { tensors } = block;
    switch (order) {
      case "importance": {
        const bases = await valueOutputBases(algebra, tensors, valueGram, config);
        return { ...block, tensors: await changeValueBases(algebra, tensors, bases, config) };
      }
      case "magnitude":
        return { ...block, tensors: permuteValues(tensors, valueMagnitudeOrder(tensors, config), config) };
      case "random": {
        // Another stream than the pairs' order.
        const orders = valueRandomOrder(config, randomNumbers(~seed));
        return { ...block, tensors: permuteValues(tensors, orders, config) };
      }
      default:
        return order satisfies never;
    }
  },

  pack: (config, { norm, tensors }, { pairs, passed }) => ({
    kind: "attention",
    norm,
    pairs,
    ...packAttention(config, tensors, pairs, passed),
  }),

  /** Value heads take the factors; the query heads that read one share them. A value bias is in the output's by now. */
  balance(config, { chunks }, { qkv: unrotatedQkv, output: unrotatedOutput, ...others }) {
    const { hiddenSize, numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = config;
    const { qkv, output } = spreadValues(config, chunks, { qkv: unrotatedQkv, output: unrotatedOutput });
    const component = (column: number) => Math.floor(column / K / (H / G)) * K + column % K;
    const factors = columnFactors(output, H * K, { factors: G * K, of: component });
    const values = (H + G) * K;
    return {
      ...others,
      qkv: multiplyRows(qkv, hiddenSize, (row) => row < values ? 1 : factors[row - values]!),
      output: divideColumns(output, H * K, (column) => factors[component(column)]!),
    };
  },

  published: ({ passed, passedScores, ...order }) => ({
    ...order,
    ...(passed.some((head) => head.length > 0) && { passed, passedScores }),
  }),
};

function headStatistics(
  { numAttentionHeads: H, numKeyValueHeads: G, headDim: K }: ModelConfig,
  graph: GraphBuilder,
  value: Value,
) {
  const heads = (start: number, end: number) =>
    graph.op("Slice", [value, graph.integers([start]), graph.integers([end]), graph.integers([1])]);
  const compared = heads(0, H + G);
  const squares = graph.op("ReduceSum", [graph.op("Mul", [compared, compared]), graph.integers([0])], {
    attributes: { keepdims: 0 },
  });
  const values = graph.op("Transpose", [heads(H + G, H + 2 * G)], { attributes: { perm: [1, 0, 2] } });
  const transposed = graph.op("Transpose", [values], { attributes: { perm: [0, 2, 1] } });
  return [
    { name: "energies", shape: [H + G, K], increment: squares },
    { name: "value_gram", shape: [G, K, K], increment: graph.op("MatMul", [transposed, values]) },
  ];
}
