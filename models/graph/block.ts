import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import type { ModelConfig } from "../description.ts";
import type { BlockPlan } from "../plan.ts";
import { attention, type AttentionCore } from "./attention.ts";
import { gatedMlp } from "./gated_mlp.ts";
import type { Gates } from "./gates.ts";
import type { Weights } from "./weights.ts";
import type { Rotary } from "./rotary.ts";

/** What a block's mathematics is built with. The same blocks serve, calibrate, evaluate and train. */
export interface BlockContext {
  readonly config: ModelConfig;
  readonly weights: Weights;
  readonly gates: Gates;
  readonly rotary: Rotary;
  readonly core: AttentionCore;
  /** Shown every activation that a statistic may want, under the block's name. */
  readonly tap?: (name: string, value: Value) => void;
}

/** Adds one residual block: `[rows, D]` → `[rows, D]`. */
export function residualBlock(graph: GraphBuilder, x: Value, block: BlockPlan, context: BlockContext): Value {
  switch (block.kind) {
    case "attention":
      return attention(graph, x, block, context);
    case "gatedMlp":
      return gatedMlp(graph, x, block, context);
    default:
      return block satisfies never;
  }
}
