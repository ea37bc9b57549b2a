import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import { downMatrix, type GatedMlpPlan, gateUpMatrix } from "../plan.ts";
import type { BlockContext } from "./block_context.ts";

/**
 * `x + down(silu(gate(n)) ⊙ up(n))` with `n = norm(x)`.
 *
 * @param x `[rows, D]`
 * @returns `[rows, D]`
 */
export function gatedMlp(graph: GraphBuilder, x: Value, block: GatedMlpPlan, context: BlockContext): Value {
  const { config, weights, linear, tap } = context;
  const { name, chunks } = block;
  const channels = linear.toGatedChannels(graph, {
    name,
    x,
    norm: { weight: weights.vector(graph, `${name}.norm`, config.hiddenSize), epsilon: config.rmsNormEps },
    chunks,
    matrixOf: (index) => gateUpMatrix(config, block, index),
    tap,
  });
  const matrixOf = (index: number) => downMatrix(config, block, index);
  return linear.fromChannels(graph, { channels, chunks, matrixOf, residual: x });
}
