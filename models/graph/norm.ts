import type { GraphBuilder, Value } from "../../onnx/mod.ts";

/** `x / sqrt(mean(x²) + epsilon) ⊙ weight` over the last axis. */
export function rmsNorm(graph: GraphBuilder, x: Value, weight: Value, epsilon: number): Value {
  return graph.op("SimplifiedLayerNormalization", [x, weight], {
    attributes: { axis: -1, epsilon: { float: epsilon }, stash_type: 1 },
  });
}
