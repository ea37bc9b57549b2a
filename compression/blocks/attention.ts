import { type AttentionTensors, headComponents, packAttention } from "../../models/layout.ts";
import { outputMatrix, qkvMatrix } from "../../models/plan.ts";
import { columnFactors, divideColumns, multiplyRows } from "../column_balance.ts";
import { statisticsOf, type ValueArrangement } from "../orders/order.ts";
import { randomNumbers } from "../random_numbers.ts";
import { changeValueBases, permuteValues } from "../value_output_rotation.ts";
import { spreadValues } from "../value_spread.ts";
import type { BlockMethod, OrderOptions } from "./method.ts";

/** Rotary pairs of queries and keys, and values with the columns of the output (uniql.md §3.4, §3.5). */
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

  orderStatistics: (config, { queryKey, values }) => statisticsOf(config, queryKey, values),

  async order({ tensors }, options) {
    const { order: { queryKey }, seed, ...known } = options;
    const arrangement = await valueArrangement(tensors, options);
    return {
      kind: "attention",
      ...await queryKey.order(tensors, { ...known, random: randomNumbers(seed) }),
      valueEnergies: "bases" in arrangement ? arrangement.bases.map(({ energies }) => [...energies]) : [],
    };
  },

  arrangedBy: ({ values }) => values.kept,

  /** Values are rotated to another basis, or permuted. */
  async arrange({ tensors, ...block }, options) {
    const { algebra, config } = options;
    const arrangement = await valueArrangement(tensors, options);
    return {
      ...block,
      tensors: "bases" in arrangement
        ? await changeValueBases(algebra, tensors, arrangement.bases, config)
        : permuteValues(tensors, arrangement.orders, config),
    };
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

async function valueArrangement(
  tensors: AttentionTensors,
  { order: { values }, seed, ...known }: OrderOptions,
): Promise<ValueArrangement> {
  // Another stream than the pairs' order.
  return await values.order(tensors, { ...known, random: randomNumbers(~seed) });
}
