import { ABSENT, ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import { type ModelConfig, rotaryDimOf } from "../description.ts";
import type { AttentionCore } from "./block_context.ts";
import { cacheNames, type LaneInputs } from "./cached_attention.ts";
import { ESPALIER } from "./prefix_linear.ts";
import { rotaryAngles } from "./rotary.ts";

/**
 * Our own operator: one node per attention block, which rotates the heads, extends the caches of all lanes and attends.
 * What `afterRotation(rotaryOf(…), cachedAttention(…))` computes, except that an idle lane costs nothing and that keys lie
 * in the cache 16 tokens side by side.
 *
 * @param positions int64 `[rows]`
 */
export function laneAttention(
  builder: GraphBuilder,
  config: ModelConfig,
  lanes: LaneInputs,
  positions: Value,
): AttentionCore {
  const { numAttentionHeads, numKeyValueHeads, headDim } = config;
  const turns = rotaryDimOf(config) > 0;
  const { cosines, sines } = turns ? rotaryAngles(builder, config, positions) : { cosines: ABSENT, sines: ABSENT };
  return {
    attend(graph, packed, block, { pairs }) {
      const names = Array.from({ length: lanes.count }, (_, lane) => cacheNames(block, lane));
      const caches = names.flatMap(({ pastKey, pastValue }, lane) =>
        [pastKey, pastValue].map((name) =>
          graph.input(name, ElementType.float32, [
            1,
            numKeyValueHeads,
            `capacity_${lane}`,
            `${block.name}.width_${lane}`,
          ])
        )
      );
      const inputs = [packed, lanes.rows, lanes.lengths, cosines, sines, pairs ?? ABSENT, ...caches];
      const [attended, ...extended] = graph.ops("CachedAttention", inputs, 1 + caches.length, {
        domain: ESPALIER,
        attributes: {
          query_heads: numAttentionHeads,
          key_heads: numKeyValueHeads,
          widest: block.widths[0]!,
          turns: turns ? 1 : 0,
          scale: { float: headDim ** -0.5 },
        },
      });
      for (const [at, name] of names.flatMap(({ key, value }) => [key, value]).entries()) {
        graph.output(name, extended[at]!, ElementType.float32);
      }
      return attended!;
    },
  };
}
