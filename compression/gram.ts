import type { Accumulator } from "../models/dense_block.ts";
import type { GraphBuilder, Value } from "../onnx/mod.ts";

/** `XᵀX` of `[rows, width]`, to be added up under a name. */
export function gramOf(name: string, graph: GraphBuilder, value: Value, width: number): Accumulator {
  return { name, shape: [width, width], increment: graph.op("Gemm", [value, value], { attributes: { transA: 1 } }) };
}
