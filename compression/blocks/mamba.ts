import { mambaOf } from "../../models/description.ts";
import { headComponents, mambaInputRows, packMamba } from "../../models/layout.ts";
import { mambaInputMatrix, mambaOutputMatrix } from "../../models/plan.ts";
import { columnFactors, divideColumns, multiplyRows } from "../column_balance.ts";
import { statisticsOf } from "../orders/order.ts";
import { randomNumbers } from "../random_numbers.ts";
import type { BlockMethod } from "./method.ts";

/** States of each group and channels of each head (uniql.md §3.6, §3.7). */
export const mambaMethod: BlockMethod<"mamba"> = {
  stream: { readers: ["input"], writers: ["output"], biases: [] },
  projections: [
    {
      // z, x, B, C and dt read the same input and are quantized as one matrix: each row keeps the scales it was given.
      weight: "input",
      input: "input",
      cut: "rows",
      stored: (config, plan) => plan.inputChunks.map((_, chunk) => mambaInputMatrix(config, plan, chunk)),
      order: (config, plan) => plan.inputChunks.flatMap((chunk) => [...mambaInputRows(config, chunk)]),
    },
    {
      weight: "output",
      input: "mixed.0",
      cut: "columns",
      stored: (config, plan) => plan.chunks.map((_, chunk) => mambaOutputMatrix(config, plan, chunk)),
      order: (config, { chunks }) => {
        const { numHeads, headDim } = mambaOf(config);
        return chunks.flatMap((chunk) => [...headComponents(numHeads, headDim, chunk)]);
      },
    },
  ],

  quanta: ({ mambaHead, mambaState }) => ({ widths: mambaHead, stateWidths: mambaState }),

  orderStatistics: (config, { mambaChannels, mambaStates }) => statisticsOf(config, mambaChannels, mambaStates),

  async order({ tensors }, { order, seed, ...others }) {
    const known = { ...others, random: randomNumbers(seed) }; // one stream: channels take theirs first
    const channels = await order.mambaChannels.order(tensors, known);
    const states = await order.mambaStates.order(tensors, known);
    return {
      kind: "mamba",
      channels: channels.orders,
      channelScores: channels.scores,
      states: states.orders,
      stateScores: states.scores,
    };
  },

  pack: (config, { norm, tensors }, { channels, states }) => ({
    kind: "mamba",
    norm,
    ...packMamba(config, tensors, { channels, states }),
  }),

  /** The gated norm's weight takes the factors. */
  balance(config, _plan, { gatedNorm, output, ...others }) {
    const { numHeads, headDim } = mambaOf(config);
    const factors = columnFactors(output, numHeads * headDim);
    return {
      ...others,
      gatedNorm: multiplyRows(gatedNorm, 1, (channel) => factors[channel]!),
      output: divideColumns(output, numHeads * headDim, (column) => factors[column]!),
    };
  },
};
