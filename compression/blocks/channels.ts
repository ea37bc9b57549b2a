import type { Statistic } from "../../models/dense_block.ts";
import type { ModelConfig } from "../../models/description.ts";
import { type MlpWeights, statisticsOf, type WholeOrder } from "../orders/order.ts";
import { randomNumbers } from "../random_numbers.ts";
import type { OrderOptions } from "./method.ts";

/** What the order of an MLP's hidden channels is made from. */
export function channelStatistics(config: ModelConfig, { mlpChannels }: WholeOrder): Statistic | undefined {
  return statisticsOf(config, mlpChannels);
}

/** Orders the hidden channels of an MLP. */
export async function channelOrder(
  weights: MlpWeights,
  { order: { mlpChannels }, seed, ...known }: OrderOptions,
): Promise<{ channels: number[]; channelScores: number[] }> {
  const { order, scores } = await mlpChannels.order(weights, { ...known, random: randomNumbers(seed) });
  return { channels: order, channelScores: [...scores] };
}

/** All channels in the order in which they were packed: the columns of a down projection are stored as they are. */
export function allChannels({ intermediateSize }: ModelConfig): number[] {
  return Array.from({ length: intermediateSize }, (_, channel) => channel);
}
