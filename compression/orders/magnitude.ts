import { mambaOf } from "../../models/description.ts";
import { queryKeyMagnitudeOrder } from "../query_key_order.ts";
import { mlpMagnitudeOrder } from "../ridge_leverage.ts";
import { headChannelMagnitudeOrder, stateMagnitudeOrder } from "../state_space_order.ts";
import { valueMagnitudeOrder } from "../value_output_rotation.ts";
import type { WholeOrder } from "./order.ts";

/** The lengths of the weights that leave with a channel: a control, which needs no calibration. */
export const magnitude: WholeOrder = {
  mlpChannels: { order: (weights, { config }) => mlpMagnitudeOrder(weights, config.intermediateSize) },
  queryKey: { order: (tensors, { config }) => queryKeyMagnitudeOrder(tensors, config) },
  values: { order: (tensors, { config }) => ({ orders: valueMagnitudeOrder(tensors, config) }) },
  mambaChannels: { order: (tensors, { config }) => headChannelMagnitudeOrder(tensors, mambaOf(config)) },
  mambaStates: { order: (tensors, { config }) => stateMagnitudeOrder(tensors, mambaOf(config)) },
};
