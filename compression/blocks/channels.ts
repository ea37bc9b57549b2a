import type { LinearAlgebra } from "../../kernels/matrix.ts";
import type { Statistic } from "../../models/dense_block.ts";
import type { ModelConfig } from "../../models/description.ts";
import type { Floats } from "../../models/floats.ts";
import { gramOf } from "../gram.ts";
import { randomOrder } from "../importance_order.ts";
import { randomNumbers } from "../random_numbers.ts";
import { mlpMagnitudeOrder, ridgeLeverageOrder } from "../ridge_leverage.ts";
import type { Recipe } from "../recipe.ts";
import type { OrderOptions } from "./method.ts";

/** `hidden_gram` `[F, F]` of an MLP's hidden channels. Only ridge leverage reads it, and it is costly. */
export function hiddenGram({ intermediateSize }: ModelConfig, order: Recipe["order"]): Statistic | undefined {
  if (order !== "importance") return undefined;
  return (graph, activation, value) =>
    activation === "hidden.0" ? [gramOf("hidden_gram", graph, { value, width: intermediateSize })] : [];
}

/**
 * Orders the hidden channels of an MLP (uniql.md §3.3).
 *
 * @param into Weights that write the channels, `[F, D]` each.
 * @param down `[D, F]`
 */
export async function channelOrder(
  algebra: LinearAlgebra,
  { into, down }: { into: readonly Float32Array[]; down: Float32Array },
  statistics: ReadonlyMap<string, Float32Array>,
  { config: { intermediateSize }, order, ridge, seed }: OrderOptions,
): Promise<{ channels: number[]; channelScores: number[] }> {
  const scored = await {
    importance: () => {
      const gram: Floats = Float32Array.from(statistics.get("hidden_gram")!);
      return ridgeLeverageOrder(algebra, { gram, size: intermediateSize, lambda: ridge });
    },
    magnitude: () => Promise.resolve(mlpMagnitudeOrder({ into, down }, intermediateSize)),
    random: () => Promise.resolve({ order: randomOrder(intermediateSize, randomNumbers(seed)), scores: [] }),
  }[order]();
  return { channels: scored.order, channelScores: [...scored.scores] };
}

/** All channels in the order in which they were packed: the columns of a down projection are stored as they are. */
export function allChannels({ intermediateSize }: ModelConfig): number[] {
  return Array.from({ length: intermediateSize }, (_, channel) => channel);
}
