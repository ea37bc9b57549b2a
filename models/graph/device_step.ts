import { ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import type { Matrix } from "../plan.ts";
import type { LaneInputs } from "./cached_attention.ts";
import { ESPALIER_CUDA } from "./prefix_linear.ts";
import type { Int4Weights } from "./weights.ts";

/** What the operators of a CUDA device read of a step. */
export interface DeviceStep {
  /** int32 `[lanes, 8]`: first row, rows, length, level and slot of every lane. */
  readonly lanes: Value;
  /** int64 `[levels]`: how many rows have a level of at most this one. */
  readonly rowsUpTo: Value;
}

/** Adds the graph's input `lane_slots` and the operator that plans a step, once for all blocks. */
export function stepPlan(graph: GraphBuilder, { count, rows, levels, lengths }: LaneInputs, of: number): DeviceStep {
  const slots = graph.input("lane_slots", ElementType.int64, [count]);
  const [lanes, rowsUpTo] = graph.ops("StepPlan", [rows, levels, lengths, slots], 2, {
    domain: ESPALIER_CUDA,
    attributes: { levels: of },
  });
  return { lanes: lanes!, rowsUpTo: rowsUpTo! };
}

/** Rows of the embedding on a CUDA device: int64 `[rows]` → float32 `[rows, D]`. */
export function deviceEmbedding(graph: GraphBuilder, weights: Int4Weights, tokens: Value, embedding: Matrix): Value {
  const { codes, scales } = weights.stored(graph, embedding);
  return graph.op("Embed", [tokens, codes, scales], {
    domain: ESPALIER_CUDA,
    attributes: { block_size: weights.blockSize },
  });
}
