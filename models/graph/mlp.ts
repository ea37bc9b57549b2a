import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import { downMatrix, type MlpPlan, upMatrix } from "../plan.ts";
import type { BlockContext } from "./block_context.ts";
import { cutInputs, cutOutputs } from "./elastic_linear.ts";
import { rmsNorm } from "./norm.ts";

/**
 * `x + down(relu(up(n))²)` with `n = norm(x)`; chunks as in `gatedMlp`.
 *
 * @param x `[rows, D]`
 * @returns `[rows, D]`
 */
export function mlp(graph: GraphBuilder, x: Value, block: MlpPlan, context: BlockContext): Value {
  const { config, weights, gates, tap } = context;
  const normed = rmsNorm(graph, x, weights.vector(graph, `${block.name}.norm`, config.hiddenSize), config.rmsNormEps);
  tap?.(`${block.name}.input`, normed);
  const up = cutOutputs(graph, {
    x: normed,
    chunks: block.chunks,
    matrixOf: (index) => upMatrix(config, block, index),
    gates,
    weights,
  });
  const hidden = up.map((piece) => {
    const rectified = graph.op("Relu", [piece.value]);
    return { ...piece, value: graph.op("Mul", [rectified, rectified]) };
  });
  for (const { value, index } of hidden) tap?.(`${block.name}.hidden.${index}`, value);
  return cutInputs(graph, {
    pieces: hidden,
    matrixOf: (index) => downMatrix(config, block, index),
    gates,
    weights,
    residual: x,
  });
}
