import { ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import type { ModelConfig } from "../description.ts";
import type { AttentionPlan } from "../plan.ts";
import type { RotatedAttention } from "./block_context.ts";
import { groupQueryAttention } from "./causal_attention.ts";

/**
 * What a step does for each sequence. A lane is a place in the batch: lane `i` takes the next `rows[i]` rows and reads
 * and extends the caches bound to it.
 */
export interface LaneInputs {
  readonly count: number;
  /** int64 `[lanes]`: rows of each lane, widest level first; 0 for an idle lane. */
  readonly rows: Value;
  /** int64 `[lanes]`: the level of each lane's sequence; not decreasing. */
  readonly levels: Value;
  /** int32 `[lanes]`: tokens of each sequence after this step; 1 for an idle lane. */
  readonly lengths: Value;
}

/**
 * A cache's capacity is a multiple of this: our own operator keeps the keys of so many tokens side by side.
 */
export const CACHE_TOKENS = 16;

/** Names of a lane's caches, `[1, G, capacity, width]` each. The outputs are bound to the inputs' tensors. */
export function cacheNames(
  block: AttentionPlan,
  lane: number,
): Record<"pastKey" | "pastValue" | "key" | "value", string> {
  const prefix = `${block.name}.lane_${lane}`;
  return {
    pastKey: `${prefix}.past_key`,
    pastValue: `${prefix}.past_value`,
    key: `${prefix}.key`,
    value: `${prefix}.value`,
  };
}

/**
 * Attention of several sequences of different lengths and levels in one step.
 *
 * Every lane has an operator of its own, because one over a batch would want all caches in one tensor of the widest
 * width. So a sequence's cache has its own width and capacity, a sequence gets bit for bit what it gets alone, and a
 * prefill chunk can share a step with decoding rows.
 *
 * The operator fails on no rows (it divides by them), so an idle lane runs over row 0 with a cache of one token, and
 * the result is dropped.
 *
 * @param type Of the heads, and of the caches.
 */
export function cachedAttention(
  graph: GraphBuilder,
  config: ModelConfig,
  lanes: LaneInputs,
  type: ElementType = ElementType.float32,
): RotatedAttention {
  const { numAttentionHeads, numKeyValueHeads } = config;
  const split = (value: Value) =>
    lanes.count === 1 ? [value] : graph.ops("Split", [value], lanes.count, {
      attributes: { axis: 0, num_outputs: lanes.count },
    });
  const rows = split(lanes.rows);
  const levels = split(lanes.levels);
  const lengths = split(lanes.lengths);
  const one = graph.integers([1]);
  const zero = graph.integers([0]);
  const concat = (...parts: Value[]) => graph.op("Concat", parts, { attributes: { axis: 0 } });
  const int32 = { attributes: { to: ElementType.int32 } };

  const spans: { start: Value; used: Value; surplus: Value }[] = [];
  let start = zero;
  for (const laneRows of rows) {
    const used = lanes.count === 1 ? laneRows : graph.op("Max", [laneRows, one]);
    // An idle lane at the end of the batch has no row of its own left to run over.
    const from = lanes.count === 1 || spans.length === 0 ? start : graph.op("Where", [
      graph.op("Equal", [laneRows, zero]),
      zero,
      start,
    ]);
    spans.push({ start: from, used, surplus: graph.op("Sub", [laneRows, used]) });
    start = graph.op("Add", [start, laneRows]);
  }

  return {
    attend(graph, packed, block) {
      const widest = block.widths[0]!;
      const widthTable = graph.integers(block.widths);
      const elastic = new Set(block.widths).size > 1;
      const attended = rows.map((_, lane) => {
        const { start, used, surplus } = spans[lane]!;
        const width = elastic ? graph.op("Gather", [widthTable, levels[lane]!]) : graph.integers([widest]);
        const mine = lanes.count === 1 && !elastic ? packed : graph.op("Slice", [
          packed,
          concat(start, zero),
          concat(graph.op("Add", [start, used]), width),
          graph.integers([0, 2]),
        ]);
        const sequence = graph.op("Unsqueeze", [graph.op("Flatten", [mine], { attributes: { axis: 1 } }), zero]);
        const names = cacheNames(block, lane);
        const cacheShape = [1, numKeyValueHeads, `capacity_${lane}`, `${block.name}.width_${lane}`];
        const length = lengths[lane]!;
        const [output, key, value] = groupQueryAttention(graph, config, {
          sequence,
          past: {
            key: graph.input(names.pastKey, type, cacheShape),
            value: graph.input(names.pastValue, type, cacheShape),
          },
          lengths: graph.op("Sub", [length, graph.op("Cast", [one], int32)]),
          total: graph.op("Squeeze", [length]),
        });
        graph.output(names.key, key!, type);
        graph.output(names.value, value!, type);
        const perHead = graph.op("Reshape", [
          output!,
          graph.op("Concat", [
            graph.integers([-1, numAttentionHeads]),
            width,
          ], { attributes: { axis: 0 } }),
        ]);
        if (lanes.count === 1 && !elastic) return perHead;
        const missing = graph.op("Sub", [graph.integers([widest]), width]);
        return graph.op("Pad", [perHead, concat(graph.integers([0, 0, 0]), surplus, zero, missing)]);
      });
      return attended.length === 1 ? attended[0]! : graph.op("Concat", attended, { attributes: { axis: 0 } });
    },
  };
}
