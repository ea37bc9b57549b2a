import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import type { ModelConfig } from "../description.ts";
import type { AttentionPlan } from "../plan.ts";
import type { ElasticLinear, Tap } from "./elastic_linear.ts";
import type { StateSpaceMixer } from "./state_space.ts";
import type { Weights } from "./weights.ts";

/** Rotary positions and softmax attention: what stands between the two projections of an attention block. */
export interface AttentionCore {
  /**
   * @param packed `[rows, heads, widest]`: query, key and value heads of every row, as projected.
   * @param pairs See `Rotary`; null if the model has no rotary positions.
   * @param tap Shown the rotated heads, as `heads`. A core that has no such value shows nothing.
   * @returns `[rows, H, widest]`; zero in the components that a row's level does not keep.
   */
  attend(
    graph: GraphBuilder,
    packed: Value,
    block: AttentionPlan,
    { pairs, tap }: { pairs: Value | null; tap?: Tap | undefined },
  ): Value;
}

/** Softmax attention of heads that are rotated already. */
export interface RotatedAttention {
  /** As `AttentionCore.attend`. */
  attend(graph: GraphBuilder, rotated: Value, block: AttentionPlan): Value;
}

/** What a block's mathematics is built with. The same blocks serve, calibrate, evaluate and train. */
export interface BlockContext {
  readonly config: ModelConfig;
  readonly weights: Weights;
  readonly linear: ElasticLinear;
  readonly core: AttentionCore;
  readonly stateSpace: StateSpaceMixer;
  /** Shown every activation that a statistic may want, under the block's name. */
  readonly tap?: Tap;
}
