import { descendingOrder } from "../descending_order.ts";
import { energiesOf } from "../gram.ts";
import type { Order } from "./order.ts";

/**
 * MLP channels by the size of what each adds to the output: `‖x_c‖ · ‖down_c‖`, of the channel's activations over all
 * calibration tokens and of its column of down. Wanda (arXiv 2306.11695) scores single weights so, by `‖x_c‖ · |w|`; this
 * is the root of the sum of their squares over the outputs. In contrast to ridge leverage it does not see what channels
 * have in common.
 */
export const activation: Order = {
  mlpChannels: {
    statistics: ({ intermediateSize }) => (graph, activation, value) =>
      activation === "hidden.0" ? [energiesOf("hidden_energies", graph, { value, width: intermediateSize })] : [],
    order({ down }, { statistics }) {
      const energies = statistics.get("hidden_energies")!;
      const columns = new Float64Array(energies.length);
      for (let i = 0; i < down.length; i++) columns[i % columns.length]! += down[i]! ** 2;
      const scores = columns.map((square, channel) => Math.sqrt(square * energies[channel]!));
      return { order: descendingOrder(scores), scores };
    },
  },
};
