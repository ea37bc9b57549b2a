import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import type { ModelConfig } from "../description.ts";
import type { AttentionPlan } from "../plan.ts";
import type { ElasticLinear, Tap } from "./elastic_linear.ts";
import type { Rotary } from "./rotary.ts";
import type { StateSpaceMixer } from "./state_space.ts";
import type { Weights } from "./weights.ts";

/** Softmax attention itself: what stands between the rotated heads and the output projection. */
export interface AttentionCore {
  /**
   * @param packed `[rows, heads, widest]`: query, key and value heads of every row, rotated.
   * @returns `[rows, H, widest]`; zero in the components that a row's level does not keep.
   */
  attend(graph: GraphBuilder, packed: Value, block: AttentionPlan): Value;
}

/** What a block's mathematics is built with. The same blocks serve, calibrate, evaluate and train. */
export interface BlockContext {
  readonly config: ModelConfig;
  readonly weights: Weights;
  readonly linear: ElasticLinear;
  readonly rotary: Rotary;
  readonly core: AttentionCore;
  readonly stateSpace: StateSpaceMixer;
  /** Shown every activation that a statistic may want, under the block's name. */
  readonly tap?: Tap;
}
