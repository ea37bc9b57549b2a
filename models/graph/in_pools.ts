import type { GraphBuilder, OpOptions, Value } from "../../onnx/mod.ts";
import type { Pool } from "../pools.ts";

/** Adds an operator that reads and writes pools, its last inputs and outputs, in place. @returns Its first output. */
export function inPools(
  graph: GraphBuilder,
  pools: readonly Pool[],
  { op, inputs, options }: { op: string; inputs: readonly Value[]; options: OpOptions },
): Value {
  const before = pools.map(({ past, type, shape }) => graph.input(past, type, shape("slots", "capacity")));
  const [result, ...after] = graph.ops(op, [...inputs, ...before], 1 + pools.length, options);
  pools.forEach(({ present, type }, index) => graph.output(present, after[index]!, type));
  return result!;
}
