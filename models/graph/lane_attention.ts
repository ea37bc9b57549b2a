import { ABSENT, type GraphBuilder } from "../../onnx/mod.ts";
import { type ModelConfig, rotaryDimOf } from "../description.ts";
import type { AttentionCore } from "./block_context.ts";
import type { AddOperator } from "./chain.ts";
import type { LaneInputs } from "./cached_attention.ts";
import type { LaneArrays } from "./lane_arrays.ts";
import { tablesOfAngles } from "./rotary.ts";

/**
 * Our own operator: one per attention block, which rotates the heads, extends the caches of all lanes and attends.
 * What `afterRotation(rotaryOf(…), cachedAttention(…))` computes, except that an idle lane costs nothing and that keys lie
 * in the cache 16 tokens side by side.
 *
 * @param capacity Tokens of a cache, which has angles for as many.
 */
export function laneAttention(
  builder: GraphBuilder,
  config: ModelConfig,
  lanes: LaneInputs,
  { arrays, places, firstOf }: LaneArrays,
  { capacity, add }: { readonly capacity: number; readonly add: AddOperator },
): AttentionCore {
  const { numAttentionHeads, numKeyValueHeads, headDim } = config;
  const turns = rotaryDimOf(config) > 0;
  const { cosines, sines } = turns ? tablesOfAngles(builder, config, capacity) : { cosines: ABSENT, sines: ABSENT };
  return {
    attend(graph, packed, block, { pairs }) {
      const angles = [cosines, sines, pairs ?? ABSENT];
      return add(graph, "CachedAttention", [
        ...[packed, lanes.rows, lanes.levels, lanes.lengths, places],
        ...angles,
        ...arrays,
      ], {
        query_heads: numAttentionHeads,
        key_heads: numKeyValueHeads,
        widest: block.widths[0]!,
        widths: block.widths,
        turns: turns ? 1 : 0,
        scale: { float: headDim ** -0.5 },
        first_cache: firstOf(block),
      });
    },
  };
}
