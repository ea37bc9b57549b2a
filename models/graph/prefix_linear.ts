import { ABSENT, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import { chunkWidth } from "../widths.ts";
import type { CutMatrix, ElasticLinear, Norm } from "./elastic_linear.ts";
import type { Int4Weights, Weights } from "./weights.ts";

/** The domain of the operators in `kernels/native/`. */
export const ESPALIER = "espalier";

/** Which axis of a `PrefixMatMul` is cut; see `kernels/native/prefix_matmul.h`. */
const CUT = { outputs: 0, gated: 1, inputs: 2 } as const;

/**
 * Our own operator: one node per linear layer, which takes the row counts of the levels as an input, normalizes, joins
 * or gates, and adds the residual.
 *
 * @param rowsUpTo int64 `[levels]`: how many rows have a level of at most this one; null if there is one level.
 */
export function prefixLinear(weights: Int4Weights, rowsUpTo: Value | null): ElasticLinear {
  return {
    toHeads: (graph, layer) => product(graph, weights, rowsUpTo, { ...layer, cut: "outputs" }),
    fromHeads: (graph, layer) => product(graph, weights, rowsUpTo, { ...layer, cut: "inputs" }),
    toGatedChannels: (graph, layer) => ({
      whole: product(graph, weights, rowsUpTo, { ...layer, cut: "gated", groups: 2 }),
    }),
    fromChannels(graph, { channels, ...layer }) {
      if (!("whole" in channels)) throw new TypeError("Cannot take channels in chunks into one product");
      return product(graph, weights, rowsUpTo, { ...layer, x: channels.whole, cut: "inputs", groups: 1 });
    },
  };
}

/** The weights of an artefact, with our own operator for every product. */
export function prefixWeights(weights: Int4Weights): Weights {
  return {
    ...weights,
    product: (graph, x, matrix) =>
      product(graph, weights, null, {
        x,
        chunks: [{ start: 0, end: matrix.outFeatures, level: 0 }],
        matrixOf: () => matrix,
        cut: "outputs",
        groups: 1,
      }),
  };
}

function product(
  graph: GraphBuilder,
  weights: Int4Weights,
  rowsUpTo: Value | null,
  { chunks, matrixOf, x, norm, residual, cut, groups }: CutMatrix & {
    x: Value;
    norm?: Norm;
    residual?: Value;
    cut: keyof typeof CUT;
    groups: number;
  },
): Value {
  const stored = chunks.map((_, index) => weights.stored(graph, matrixOf(index)));
  const inputs = [
    x,
    rowsUpTo ?? ABSENT,
    norm?.weight ?? ABSENT,
    residual ?? ABSENT,
    ...stored.flatMap(({ codes, scales, bias }) => bias === null ? [codes, scales] : [codes, scales, bias]),
  ];
  const { inFeatures, outFeatures } = matrixOf(0);
  return graph.op("PrefixMatMul", inputs, {
    domain: ESPALIER,
    attributes: {
      cut: CUT[cut],
      activation: 0,
      groups: [groups],
      uncut: cut === "inputs" ? outFeatures : inFeatures,
      block_size: weights.blockSize,
      epsilon: { float: norm?.epsilon ?? 0 },
      widths: chunks.map(chunkWidth),
      levels: chunks.map(({ level }) => level),
      biases: stored.map(({ bias }) => bias === null ? 0 : 1),
    },
  });
}
