import { ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import type { LaneInputs } from "./cached_attention.ts";

/**
 * The same lanes, in a way that lets the runtime compute on the CPU what follows from them alone, the sizes of slices and
 * paddings, and not on a CUDA device, from which it would have to fetch every one of them.
 *
 * It leaves on the CPU what depends on the size of a tensor, and beside it on graph inputs and small constants alone. So
 * that every lane input depends on a size, `0 · size(tokens)` is added to it.
 *
 * @param tokens Any tensor; only its size is read.
 */
export function computedOnHost(graph: GraphBuilder, lanes: LaneInputs, tokens: Value): LaneInputs {
  const nothing = graph.op("Mul", [graph.op("Shape", [tokens]), graph.integers([0])]);
  const nothing32 = graph.op("Cast", [nothing], { attributes: { to: ElementType.int32 } });
  return {
    count: lanes.count,
    rows: graph.op("Add", [lanes.rows, nothing]),
    levels: graph.op("Add", [lanes.levels, nothing]),
    lengths: graph.op("Add", [lanes.lengths, nothing32]),
  };
}
