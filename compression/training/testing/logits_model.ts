import type { ModelPlan } from "../../../models/plan.ts";
import { ElementType, GraphBuilder, type Model } from "../../../onnx/mod.ts";
import { type BatchShape, logitsOf } from "../loss.ts";

/** The logits `[sequences · length, V]` that the loss is of, to hold against those of other graphs. */
export function logitsModel(plan: ModelPlan, shape: BatchShape): Model {
  const graph = new GraphBuilder();
  graph.output("logits", logitsOf(graph, plan, shape), ElementType.float32);
  return graph.build();
}
