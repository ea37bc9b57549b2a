import { randomOrder } from "../descending_order.ts";
import { queryKeyRandomOrder } from "../query_key_order.ts";
import { randomOrders } from "../state_space_order.ts";
import { mambaOf } from "../../models/description.ts";
import { valueRandomOrder } from "../value_output_rotation.ts";
import type { WholeOrder } from "./order.ts";

/** Chance: the control that ignores importance. */
export const random: WholeOrder = {
  mlpChannels: {
    order: (_weights, { config, random }) => ({ order: randomOrder(config.intermediateSize, random), scores: [] }),
  },
  queryKey: { order: (_tensors, { config, random }) => queryKeyRandomOrder(config, random) },
  values: { order: (_tensors, { config, random }) => ({ orders: valueRandomOrder(config, random) }) },
  mambaChannels: {
    order(_tensors, { config, random }) {
      const { numHeads, headDim } = mambaOf(config);
      return randomOrders(numHeads, headDim, random);
    },
  },
  mambaStates: {
    order(_tensors, { config, random }) {
      const { numGroups, stateSize } = mambaOf(config);
      return randomOrders(numGroups, stateSize, random);
    },
  },
};
