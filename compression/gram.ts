import type { Accumulator } from "../models/dense_block.ts";
import type { GraphBuilder, Value } from "../onnx/mod.ts";

/** A value `[rows, width]` of a graph. */
export interface Rows {
  readonly value: Value;
  readonly width: number;
}

/** `XᵀX` of `[rows, width]`, to be added up under a name. */
export function gramOf(name: string, graph: GraphBuilder, x: Rows): Accumulator {
  return crossGramOf(name, graph, x, x);
}

/** `YᵀX`, `[width of Y, width of X]`, to be added up under a name. */
export function crossGramOf(name: string, graph: GraphBuilder, y: Rows, x: Rows): Accumulator {
  return {
    name,
    shape: [y.width, x.width],
    increment: graph.op("Gemm", [y.value, x.value], { attributes: { transA: 1 } }),
  };
}

/** Sums of squares of each column of `[rows, width]`, the diagonal of its Gram matrix, to be added up under a name. */
export function energiesOf(name: string, graph: GraphBuilder, { value, width }: Rows): Accumulator {
  const squares = graph.op("Mul", [value, value]);
  const increment = graph.op("ReduceSum", [squares, graph.integers([0])], { attributes: { keepdims: 0 } });
  return { name, shape: [width], increment };
}
