import type { LinearAlgebra } from "../../kernels/matrix.ts";
import type { Statistic } from "../../models/dense_block.ts";
import type { ModelConfig } from "../../models/description.ts";
import type { Floats } from "../../models/floats.ts";
import type { AttentionTensors, MambaTensors } from "../../models/layout.ts";
import type { QueryKeyOrders } from "../query_key_order.ts";
import type { AxisOrders } from "../state_space_order.ts";
import type { ValueBasis } from "../value_output_rotation.ts";

/**
 * What the channels of every prunable axis are ordered by, most important first. A new one is one of these in a file
 * here, and a line in the table of `mod.ts`. An axis that it leaves out is ordered by importance, the default.
 */
export interface Order {
  /** F: the hidden channels of an MLP. */
  readonly mlpChannels?: AxisOrder<MlpWeights, ChannelOrder>;
  /** K of queries and keys: rotary pairs, and components without RoPE, for each key/value head. */
  readonly queryKey?: AxisOrder<AttentionTensors, QueryKeyOrders>;
  /** K of values and the output's columns, for each key/value head. */
  readonly values?: ValueOrder;
  /** P: the channels of each Mamba head. */
  readonly mambaChannels?: AxisOrder<MambaTensors, AxisOrders>;
  /** N: the states of each Mamba group. */
  readonly mambaStates?: AxisOrder<MambaTensors, AxisOrders>;
}

/** An order that says something of every axis. */
export type WholeOrder = Required<Order>;

/** How one axis of a block is ordered. */
export interface AxisOrder<Tensors, Result> {
  /** What it adds up of the block's activations over all calibration tokens; absent where weights are enough. */
  statistics?(config: ModelConfig): Statistic;
  /** @param tensors As the checkpoint has them. */
  order(tensors: Tensors, known: Known): Result | Promise<Result>;
}

/** What an axis may be ordered by, beside the block's tensors. */
export interface Known {
  /** The sums of `statistics`, by name. */
  readonly statistics: ReadonlyMap<string, Floats>;
  readonly config: ModelConfig;
  readonly algebra: LinearAlgebra;
  /** λ in the scale of the Gram matrices. */
  readonly ridge: number;
  /** Uniform in [0, 1), for this block. */
  readonly random: () => number;
}

/** The weights around an MLP's hidden channels. */
export interface MlpWeights {
  /** Those that write the channels, `[F, D]` each: gate and up, or up alone. */
  readonly into: readonly Float32Array[];
  /** `[D, F]` */
  readonly down: Float32Array;
}

export interface ChannelOrder {
  /** The channel at each place, most important first. */
  readonly order: number[];
  /** By channel, not by place, higher is kept longer; empty where there are none. */
  readonly scores: Iterable<number>;
}

/** Values are arranged only when a block is quantized, so one sum at most is kept for it until then. */
export interface ValueOrder extends AxisOrder<AttentionTensors, ValueArrangement> {
  /** The one of `statistics` that `order` reads. */
  readonly kept?: string;
}

/** For each key/value head the value channel at each place, or another basis with its most important axis first. */
export type ValueArrangement = { readonly orders: number[][] } | { readonly bases: readonly ValueBasis[] };

/** What the axes of one block add up together; undefined where none adds up anything. */
export function statisticsOf(
  config: ModelConfig,
  ...axes: readonly Pick<AxisOrder<never, unknown>, "statistics">[]
): Statistic | undefined {
  const statistics = axes.flatMap((axis) => axis.statistics?.(config) ?? []);
  if (statistics.length === 0) return undefined;
  return (graph, activation, value) => statistics.flatMap((statistic) => statistic(graph, activation, value));
}
