import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import { downMatrix, type MlpPlan, upMatrix } from "../plan.ts";
import type { BlockContext } from "./block_context.ts";

/**
 * `x + down(relu(up(n))²)` with `n = norm(x)`; chunks as in `gatedMlp`.
 *
 * @param x `[rows, D]`
 * @returns `[rows, D]`
 */
export function mlp(graph: GraphBuilder, x: Value, block: MlpPlan, context: BlockContext): Value {
  const { config, weights, linear, tap } = context;
  const { name, chunks } = block;
  const channels = linear.toRectifiedChannels(graph, {
    name,
    x,
    norm: { weight: weights.vector(graph, `${name}.norm`, config.hiddenSize), epsilon: config.rmsNormEps },
    chunks,
    matrixOf: (index) => upMatrix(config, block, index),
    tap,
  });
  const matrixOf = (index: number) => downMatrix(config, block, index);
  return linear.fromChannels(graph, { channels, chunks, matrixOf, residual: x });
}
