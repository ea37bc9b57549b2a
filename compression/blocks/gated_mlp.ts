import { packGatedMlp } from "../../models/layout.ts";
import { downMatrix, gateUpMatrix } from "../../models/plan.ts";
import { columnFactors, divideColumns, multiplyRows } from "../column_balance.ts";
import { allChannels, channelOrder, channelStatistics } from "./channels.ts";
import type { BlockMethod } from "./method.ts";

/** Hidden channels; gate, up and down follow (uniql.md §3.3). */
export const gatedMlpMethod: BlockMethod<"gatedMlp"> = {
  stream: { readers: ["gate", "up"], writers: ["down"], biases: [] },
  projections: [
    {
      weight: "gateUp",
      input: "input",
      cut: "rows",
      stored: (config, plan) => plan.chunks.map((_, chunk) => gateUpMatrix(config, plan, chunk)),
      order: ({ intermediateSize }, { chunks }) =>
        chunks.flatMap(({ start, end }) => {
          const channels = Array.from({ length: end - start }, (_, i) => start + i);
          return [...channels, ...channels.map((channel) => intermediateSize + channel)];
        }),
    },
    {
      weight: "down",
      input: "hidden.0",
      cut: "columns",
      stored: (config, plan) => plan.chunks.map((_, chunk) => downMatrix(config, plan, chunk)),
      order: allChannels,
    },
  ],

  quanta: ({ mlp }) => ({ widths: mlp }),

  orderStatistics: channelStatistics,

  order: async ({ tensors: { gate, up, down } }, options) => ({
    kind: "gatedMlp",
    ...await channelOrder({ into: [gate, up], down }, options),
  }),

  pack: (config, { norm, tensors }, { channels }) => ({
    kind: "gatedMlp",
    norm,
    ...packGatedMlp(config, tensors, channels),
  }),

  /** Up is linear: its rows take the factors. */
  balance({ hiddenSize, intermediateSize: F }, _plan, { gateUp, down, ...others }) {
    const factors = columnFactors(down, F);
    return {
      ...others,
      gateUp: multiplyRows(gateUp, hiddenSize, (row) => row < F ? 1 : factors[row - F]!),
      down: divideColumns(down, F, (column) => factors[column]!),
    };
  },
};
