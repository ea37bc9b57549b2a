import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import { mambaOf } from "../description.ts";
import { mambaInputMatrix, mambaOutputMatrix, type MambaPlan, runWidth } from "../plan.ts";
import type { BlockContext } from "./block_context.ts";

/**
 * A Mamba-2 mixer: `x + output(gatedNorm(ssd(...) ⊙ silu(z)))`, see `MambaBlock`.
 *
 * Segments of the input projection join to full heads and groups before the convolution. Rows of narrow levels are zero
 * in the channels that they lack.
 *
 * @param x `[rows, D]`
 * @returns `[rows, D]`
 */
export function mamba(graph: GraphBuilder, x: Value, block: MambaPlan, context: BlockContext): Value {
  const { config, weights, linear, stateSpace, tap } = context;
  const { numHeads, numGroups } = mambaOf(config);
  const { name, chunks, inputChunks } = block;
  const projected = linear.toAxes(graph, {
    name,
    x,
    norm: { weight: weights.vector(graph, `${name}.norm`, config.hiddenSize), epsilon: config.rmsNormEps },
    axes: [
      { groups: 2 * numHeads, widths: inputChunks.map(({ channels }) => runWidth(channels)) },
      { groups: 2 * numGroups, widths: inputChunks.map(({ states }) => runWidth(states)) },
      { groups: numHeads, widths: inputChunks.map((_, index) => index === 0 ? 1 : 0) },
    ],
    chunks: inputChunks,
    matrixOf: (index) => mambaInputMatrix(config, block, index),
    tap,
  });
  return linear.fromHeads(graph, {
    name,
    x: stateSpace.mix(graph, projected, block, tap && ((part, value) => tap(`${name}.${part}`, value))),
    groups: numHeads,
    chunks,
    matrixOf: (index) => mambaOutputMatrix(config, block, index),
    residual: x,
    tap,
  });
}
