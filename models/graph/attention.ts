import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import { rotaryDimOf } from "../description.ts";
import { type AttentionPlan, outputMatrix, qkvMatrix } from "../plan.ts";
import { chunkWidth } from "../widths.ts";
import type { BlockContext } from "./block_context.ts";
import { cutInputs, cutOutputs } from "./elastic_linear.ts";
import { rmsNorm } from "./norm.ts";

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
  const { config, weights, gates, rotary, core, tap } = context;
  const { numAttentionHeads, numKeyValueHeads, hiddenSize } = config;
  const normed = rmsNorm(graph, x, weights.vector(graph, `${block.name}.norm`, hiddenSize), config.rmsNormEps);
  tap?.(`${block.name}.input`, normed);

  const heads = numAttentionHeads + 2 * numKeyValueHeads;
  const joined = cutOutputs(graph, {
    x: normed,
    chunks: block.chunks,
    matrixOf: (index) => qkvMatrix(config, block, index),
    gates,
    weights,
  }).map(({ value, chunk }) =>
    graph.op("Reshape", [gates.restore(graph, value, chunk.level), graph.integers([-1, heads, chunkWidth(chunk)])])
  );
  const packed = joined.length === 1 ? joined[0]! : graph.op("Concat", joined, { attributes: { axis: 2 } });
  const turned = () => {
    const pairs = weights.pairs(graph, block, [numKeyValueHeads, block.widths[0]! / 2]);
    return rotary.rotate(graph, packed, pairs, block.widths[0]!);
  };
  const rotated = rotaryDimOf(config) === 0 ? packed : turned();
  tap?.(`${block.name}.heads`, rotated);

  const attended = core.attend(graph, rotated, block);
  const pieces = block.chunks.map((chunk, index) => {
    const whole = block.chunks.length === 1;
    const components = whole ? attended : gates.takeComponents(graph, attended, chunk.level, chunk.start, chunk.end);
    const width = numAttentionHeads * chunkWidth(chunk);
    return { value: graph.op("Reshape", [components, graph.integers([-1, width])]), chunk, index };
  });
  for (const { value, index } of pieces) tap?.(`${block.name}.attended.${index}`, value);
  return cutInputs(graph, {
    pieces,
    matrixOf: (index) => outputMatrix(config, block, index),
    gates,
    weights,
    residual: x,
  });
}
