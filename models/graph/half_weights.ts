import { ElementType, type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import type { Matrix } from "../plan.ts";
import type { Int4Weights, Weights } from "./weights.ts";

/**
 * Int4 weights for activations in half precision, which is what the runtime's attention takes on a CUDA device. Scales are
 * used as they are stored; vectors are cast once, when the session is opened.
 */
export function halfWeights(int4: Int4Weights): Weights {
  return {
    product: (graph, x, matrix) => halfProduct(graph, int4, x, matrix),
    embed: (graph, tokens, embedding) => toHalf(graph, int4.embed(graph, tokens, embedding)),
    vector: (graph, name, length) => toHalf(graph, int4.vector(graph, name, length)),
    pairs: int4.pairs,
  };
}

/** `x · Wᵀ (+ bias)`, all of half precision. */
export function halfProduct(
  graph: GraphBuilder,
  weights: Pick<Int4Weights, "blockSize" | "stored">,
  x: Value,
  matrix: Matrix,
): Value {
  const { codes, scales, bias } = weights.stored(graph, matrix);
  const product = graph.op("MatMulNBits", [x, codes, scales], {
    domain: MICROSOFT,
    attributes: { N: matrix.outFeatures, K: matrix.inFeatures, bits: 4, block_size: weights.blockSize },
  });
  // With a bias of its own the operator leaves its way for few rows.
  return bias === null ? product : graph.op("Add", [product, toHalf(graph, bias)]);
}

/** Rounds to half precision. */
export function toHalf(graph: GraphBuilder, value: Value): Value {
  return graph.op("Cast", [value], { attributes: { to: ElementType.float16 } });
}

/** To single precision. */
export function toSingle(graph: GraphBuilder, value: Value): Value {
  return graph.op("Cast", [value], { attributes: { to: ElementType.float32 } });
}
