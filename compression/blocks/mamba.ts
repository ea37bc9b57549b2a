import type { Value } from "../../onnx/mod.ts";
import { mambaOf } from "../../models/description.ts";
import { headComponents, mambaInputRows, packMamba } from "../../models/layout.ts";
import { mambaInputMatrix, mambaOutputMatrix } from "../../models/plan.ts";
import { columnFactors, divideColumns, multiplyRows } from "../column_balance.ts";
import { randomNumbers } from "../random_numbers.ts";
import {
  headChannelMagnitudeOrder,
  headChannelOrder,
  randomOrders,
  stateMagnitudeOrder,
  stateOrder,
} from "../state_space_order.ts";
import { stateSpaceStatistics } from "../state_space_statistics.ts";
import type { BlockMethod } from "./method.ts";

/** States of each group by what is written and read, channels of each head by leverage (uniql.md §3.6, §3.7). */
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

  /** See `stateSpaceStatistics`. */
  orderStatistics(config, order) {
    if (order !== "importance") return undefined;
    const sizes = mambaOf(config);
    const tapped = new Map<string, Value>();
    return (graph, activation, value) => {
      tapped.set(activation, value);
      const [x, bc, delta, decay] = TAPS.map((name) => tapped.get(name));
      if (!TAPS.includes(activation) || !x || !bc || !delta || !decay) return [];
      const [b, c] = graph.ops("Split", [bc], 2, { attributes: { axis: 1, num_outputs: 2 } });
      return stateSpaceStatistics(graph, { x, b: b!, c: c!, delta, logDecay: decay }, sizes);
    };
  },

  async order(algebra, { tensors }, statistics, { config, order, ridge, seed }) {
    const shape = mambaOf(config);
    const { numHeads, headDim, numGroups, stateSize } = shape;
    const sum = (name: string) => Float32Array.from(statistics.get(name)!);
    const [channels, states] = await {
      importance: async () =>
        [
          await headChannelOrder(algebra, { grams: sum("state_grams"), lambda: ridge }, shape),
          stateOrder({ stepped: sum("stepped_energies"), read: sum("read_energies") }, shape),
        ] as const,
      magnitude: () =>
        Promise.resolve([headChannelMagnitudeOrder(tensors, shape), stateMagnitudeOrder(tensors, shape)] as const),
      random: () => {
        const random = randomNumbers(seed);
        const shuffled = [randomOrders(numHeads, headDim, random), randomOrders(numGroups, stateSize, random)] as const;
        return Promise.resolve(shuffled);
      },
    }[order]();
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

/** The activations that the statistics are made from. */
const TAPS = ["x", "bc", "delta", "decay"];
