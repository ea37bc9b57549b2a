import { packMlp } from "../../models/layout.ts";
import { downMatrix, upMatrix } from "../../models/plan.ts";
import { columnFactors, divideColumns, multiplyRows } from "../column_balance.ts";
import { allChannels, channelOrder, channelStatistics } from "./channels.ts";
import type { BlockMethod } from "./method.ts";

/** Hidden channels of an MLP without a gate (uniql.md §3.3). */
export const mlpMethod: BlockMethod<"mlp"> = {
  stream: { readers: ["up"], writers: ["down"], biases: [] },
  projections: [
    {
      weight: "up",
      input: "input",
      cut: "rows",
      stored: (config, plan) => plan.chunks.map((_, chunk) => upMatrix(config, plan, chunk)),
      order: allChannels,
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

  order: async ({ tensors: { up, down } }, options) => ({
    kind: "mlp",
    ...await channelOrder({ into: [up], down }, options),
  }),

  pack: (config, { norm, tensors }, { channels }) => ({ kind: "mlp", norm, ...packMlp(config, tensors, channels) }),

  /** Behind up its outputs are squared: its rows take the factors' roots. */
  balance({ hiddenSize, intermediateSize: F }, _plan, { up, down, ...others }) {
    const factors = columnFactors(down, F);
    return {
      ...others,
      up: multiplyRows(up, hiddenSize, (row) => Math.sqrt(factors[row]!)),
      down: divideColumns(down, F, (column) => factors[column]!),
    };
  },
};
