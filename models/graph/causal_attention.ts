import { ABSENT, ElementType, type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import type { ModelConfig } from "../description.ts";
import type { RotatedAttention } from "./block_context.ts";

/** Attention over the rows of one whole sequence, without a cache: calibration and dense evaluation. */
export function causalAttention(config: ModelConfig): RotatedAttention {
  return {
    attend(graph, packed) {
      const { numAttentionHeads, headDim } = config;
      const rows = graph.op("Gather", [graph.op("Shape", [packed]), graph.integers(0)]);
      const total = graph.op("Cast", [rows], { attributes: { to: ElementType.int32 } });
      const last = graph.op("Sub", [rows, graph.integers(1)]);
      const lengths = graph.op("Cast", [graph.op("Unsqueeze", [last, graph.integers([0])])], {
        attributes: { to: ElementType.int32 },
      });
      const sequence = graph.op("Unsqueeze", [
        graph.op("Flatten", [packed], { attributes: { axis: 1 } }),
        graph.integers([0]),
      ]);
      const attended = groupQueryAttention(graph, config, { sequence, past: null, lengths, total })[0]!;
      return graph.op("Reshape", [attended, graph.integers([-1, numAttentionHeads, headDim])]);
    },
  };
}

/**
 * One sequence through stock `GroupQueryAttention`. The softmax scale is that of the full head at every width
 * (uniql.md §7.3).
 *
 * @param sequence `[1, rows, (H + 2G) · width]`
 * @param past Keys and values `[1, G, capacity, width]`, extended in place; null without a cache.
 * @param lengths int32 `[1]`: tokens of the sequence, these rows included, less one.
 * @param total int32 scalar: `lengths` plus one.
 * @returns `[1, rows, H · width]`, then the caches.
 */
export function groupQueryAttention(
  graph: GraphBuilder,
  { numAttentionHeads, numKeyValueHeads, headDim }: ModelConfig,
  { sequence, past, lengths, total }: {
    sequence: Value;
    past: { readonly key: Value; readonly value: Value } | null;
    lengths: Value;
    total: Value;
  },
): readonly Value[] {
  const inputs = [sequence, ABSENT, ABSENT, past?.key ?? ABSENT, past?.value ?? ABSENT, lengths, total];
  return graph.ops("GroupQueryAttention", inputs, past === null ? 1 : 3, {
    domain: MICROSOFT,
    attributes: {
      num_heads: numAttentionHeads,
      kv_num_heads: numKeyValueHeads,
      scale: { float: headDim ** -0.5 },
    },
  });
}
