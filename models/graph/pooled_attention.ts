import { ABSENT, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import { type ModelConfig, rotaryDimOf } from "../description.ts";
import { attentionPools } from "../pools.ts";
import type { AttentionCore } from "./block_context.ts";
import { inPools } from "./in_pools.ts";
import { ESPALIER_CUDA } from "./prefix_linear.ts";
import { tabledAngles } from "./rotary.ts";

/**
 * Our own operator on a CUDA device: one node per attention block, which rotates the heads, extends the caches of all
 * lanes in their pools and attends.
 *
 * @param lanes See `DeviceStep`.
 * @param positions int64 `[rows]`
 * @param capacity Tokens of a cache.
 */
export function pooledAttention(
  builder: GraphBuilder,
  config: ModelConfig,
  { lanes, positions, capacity }: { lanes: Value; positions: Value; capacity: number },
): AttentionCore {
  const { numAttentionHeads, numKeyValueHeads, headDim } = config;
  const turns = rotaryDimOf(config) > 0;
  let angles: ReturnType<typeof tabledAngles> | undefined;
  return {
    attend(graph, packed, block, { pairs }) {
      const { cosines, sines } = turns
        ? angles ??= tabledAngles(builder, config, positions, capacity)
        : { cosines: ABSENT, sines: ABSENT };
      return inPools(graph, attentionPools(config, block), {
        op: "CachedAttention",
        inputs: [packed, lanes, cosines, sines, pairs ?? ABSENT],
        options: {
          domain: ESPALIER_CUDA,
          attributes: {
            query_heads: numAttentionHeads,
            key_heads: numKeyValueHeads,
            widest: block.widths[0]!,
            turns: turns ? 1 : 0,
            scale: { float: headDim ** -0.5 },
            widths: block.widths,
          },
        },
      });
    },
  };
}
