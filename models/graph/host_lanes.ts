import { ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import type { LaneInputs } from "./cached_attention.ts";

/**
 * The same lanes, in a way that lets the runtime compute on the CPU what follows from them alone, the sizes of slices and
 * paddings, and not on a CUDA device, from which it would have to fetch every one of them.
 *
 * It leaves on the CPU what depends on sizes of tensors, graph inputs and small constants. So a size is added, times 0.
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
