import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import type { BlockPlan } from "../plan.ts";
import { attention } from "./attention.ts";
import type { BlockContext } from "./block_context.ts";
import { gatedMlp } from "./gated_mlp.ts";
import { mamba } from "./mamba.ts";
import { mlp } from "./mlp.ts";

/** Adds one residual block: `[rows, D]` → `[rows, D]`. */
export function residualBlock(graph: GraphBuilder, x: Value, block: BlockPlan, context: BlockContext): Value {
  switch (block.kind) {
    case "attention":
      return attention(graph, x, block, context);
    case "gatedMlp":
      return gatedMlp(graph, x, block, context);
    case "mlp":
      return mlp(graph, x, block, context);
    case "mamba":
      return mamba(graph, x, block, context);
    default:
      return block satisfies never;
  }
}
