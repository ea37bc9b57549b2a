import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import { rotaryDimOf } from "../description.ts";
import { type AttentionPlan, outputMatrix, qkvMatrix } from "../plan.ts";
import type { BlockContext } from "./block_context.ts";

/**
 * `x + output(attention(qkv(norm(x))))`.
 *
 * Chunks join to full heads before RoPE; rows of narrow levels are zero in the components they lack, which changes no
 * inner product.
 *
 * @param x `[rows, D]`
 * @returns `[rows, D]`
 */
export function attention(graph: GraphBuilder, x: Value, block: AttentionPlan, context: BlockContext): Value {
  const { config, weights, linear, core, tap } = context;
  const { numAttentionHeads, numKeyValueHeads, hiddenSize } = config;
  const { name, chunks } = block;
  const packed = linear.toHeads(graph, {
    name,
    x,
    norm: { weight: weights.vector(graph, `${name}.norm`, hiddenSize), epsilon: config.rmsNormEps },
    groups: numAttentionHeads + 2 * numKeyValueHeads,
    chunks,
    matrixOf: (index) => qkvMatrix(config, block, index),
    tap,
  });
  const pairs = rotaryDimOf(config) === 0
    ? null
    : weights.pairs(graph, block, [numKeyValueHeads, block.widths[0]! / 2]);
  return linear.fromHeads(graph, {
    name,
    x: core.attend(graph, packed, block, { pairs, tap }),
    groups: numAttentionHeads,
    chunks,
    matrixOf: (index) => outputMatrix(config, block, index),
    residual: x,
    tap,
  });
}
