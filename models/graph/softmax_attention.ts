import type { GraphBuilder } from "../../onnx/mod.ts";
import type { ModelConfig } from "../description.ts";
import type { RotatedAttention } from "./block_context.ts";

/**
 * Attention over the rows of B whole sequences of T tokens each, out of products and a softmax, which have gradients:
 * training.
 *
 * Rows lie sequence after sequence. It is `causalAttention` written out: slower, since it computes the scores of tokens to
 * come as well.
 *
 * @param length T; the rows must be a multiple of it.
 */
export function softmaxAttention(graph: GraphBuilder, config: ModelConfig, length: number): RotatedAttention {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = config;
  const groupSize = H / G;
  const mask = graph.floats(
    Float32Array.from(
      { length: groupSize * length * length },
      (_, at) => at % length > Math.floor(at / length) % length ? -Infinity : 0,
    ),
    [groupSize * length, length],
  );
  return {
    attend(graph, packed) {
      const [query, key, value] = graph.ops("Split", [packed, graph.integers([H, G, G])], 3, {
        attributes: { axis: 1 },
      });
      const transpose = (x: typeof packed, perm: readonly number[]) =>
        graph.op("Transpose", [x], { attributes: { perm } });
      const reshape = (x: typeof packed, ...shape: number[]) => graph.op("Reshape", [x, graph.integers(shape)]);

      // The query heads that share a key head, and their tokens, are the rows of one product: [B, G, H/G · T, K].
      const scaled = graph.op("Mul", [query!, graph.floats(K ** -0.5)]);
      const queries = reshape(
        transpose(reshape(scaled, -1, length, G, groupSize, K), [0, 2, 3, 1, 4]),
        ...[-1, G, groupSize * length, K],
      );
      const keys = transpose(reshape(key!, -1, length, G, K), [0, 2, 3, 1]); // [B, G, K, T]
      const values = transpose(reshape(value!, -1, length, G, K), [0, 2, 1, 3]); // [B, G, T, K]
      const scores = graph.op("Add", [graph.op("MatMul", [queries, keys]), mask]);
      const attended = graph.op("MatMul", [graph.op("Softmax", [scores], { attributes: { axis: -1 } }), values]);
      const perToken = transpose(reshape(attended, -1, G, groupSize, length, K), [0, 3, 1, 2, 4]);
      return reshape(perToken, -1, H, K);
    },
  };
}
