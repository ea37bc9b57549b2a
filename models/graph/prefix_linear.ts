import { ABSENT, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import type { Matrix } from "../plan.ts";
import { type Chunk, chunkWidth } from "../widths.ts";
import type { CutMatrix, ElasticLinear, Norm, OutputAxis } from "./elastic_linear.ts";
import type { Int4Weights, Weights } from "./weights.ts";

/** The domain of the operators in `kernels/native/`. */
export const ESPALIER = "espalier";

/** The domain of those in `kernels/native/cuda/`, which run on a CUDA device. */
export const ESPALIER_CUDA = "espalier.cuda";

/** All that a product needs of int4 weights. */
type StoredWeights = Pick<Int4Weights, "blockSize" | "stored">;

type Domain = typeof ESPALIER | typeof ESPALIER_CUDA;

/** Which axis of a `PrefixMatMul` is cut; see `kernels/native/prefix_matmul.h`. */
const CUT = { outputs: 0, gated: 1, inputs: 2 } as const;
const ACTIVATION = { none: 0, squaredRelu: 1 } as const;

/**
 * Our own operator: one node per linear layer, which takes the row counts of the levels as an input, normalizes, joins
 * or gates, and adds the residual.
 *
 * @param rowsUpTo int64 `[levels]`: how many rows have a level of at most this one; null if there
 * is one level.
 */
export function prefixLinear(
  weights: Int4Weights,
  rowsUpTo: Value | null,
  domain: Domain = ESPALIER,
): ElasticLinear {
  const add = (graph: GraphBuilder, layer: Omit<Product, "domain" | "weights" | "rowsUpTo">) =>
    product(graph, { ...layer, domain, weights, rowsUpTo });
  return {
    toHeads: (graph, layer) => add(graph, { ...layer, cut: "outputs", axes: [oneAxis(layer)] }),
    toAxes: (graph, layer) => ({ whole: add(graph, { ...layer, cut: "outputs" }) }),
    fromHeads: (graph, layer) => add(graph, { ...layer, cut: "inputs", axes: [oneAxis(layer)] }),
    toGatedChannels: (graph, layer) => ({
      whole: add(graph, { ...layer, cut: "gated", axes: [oneAxis({ ...layer, groups: 2 })] }),
    }),
    toRectifiedChannels: (graph, layer) => ({
      whole: add(graph, {
        ...layer,
        cut: "outputs",
        activation: "squaredRelu",
        axes: [oneAxis({ ...layer, groups: 1 })],
      }),
    }),
    fromChannels(graph, { channels, ...layer }) {
      if (!("whole" in channels)) throw new TypeError("Cannot take channels in chunks into one product");
      return add(graph, { ...layer, x: channels.whole, cut: "inputs", axes: [oneAxis({ ...layer, groups: 1 })] });
    },
  };
}

/** A product with a whole matrix, behind a norm if there is one: `[rows, inFeatures]` → `[rows, outFeatures]`. */
export function wholeProduct(
  graph: GraphBuilder,
  { weights, x, norm, matrix, domain = ESPALIER }: {
    weights: StoredWeights;
    x: Value;
    norm?: Norm;
    matrix: Matrix;
    domain?: Domain;
  },
): Value {
  return product(graph, {
    domain,
    weights,
    rowsUpTo: null,
    x,
    ...(norm && { norm }),
    chunks: [{ start: 0, end: matrix.outFeatures, level: 0 }],
    matrixOf: () => matrix,
    cut: "outputs",
    axes: [{ groups: 1, widths: [matrix.outFeatures] }],
  });
}

/** The weights of an artefact, with our own operator for every product. */
export function prefixWeights(weights: Int4Weights): Weights {
  return { ...weights, product: (graph, x, matrix) => wholeProduct(graph, { weights, x, matrix }) };
}

/** The axis that all of a layer's chunks cut. */
function oneAxis({ groups, chunks }: { groups: number; chunks: readonly Chunk[] }): OutputAxis {
  return { groups, widths: chunks.map(chunkWidth) };
}

interface Product extends CutMatrix {
  readonly domain: Domain;
  readonly weights: StoredWeights;
  readonly rowsUpTo: Value | null;
  readonly x: Value;
  readonly norm?: Norm;
  readonly residual?: Value;
  readonly cut: keyof typeof CUT;
  readonly axes: readonly OutputAxis[];
  readonly activation?: keyof typeof ACTIVATION;
}

function product(
  graph: GraphBuilder,
  { domain, weights, rowsUpTo, chunks, matrixOf, x, norm, residual, cut, axes, activation = "none" }: Product,
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
    domain,
    attributes: {
      cut: CUT[cut],
      activation: ACTIVATION[activation],
      groups: axes.map(({ groups }) => groups),
      uncut: cut === "inputs" ? outFeatures : inFeatures,
      block_size: weights.blockSize,
      epsilon: { float: norm?.epsilon ?? 0 },
      widths: chunks.flatMap((_, index) => axes.map(({ widths }) => widths[index]!)),
      levels: chunks.map(({ level }) => level),
      biases: stored.map(({ bias }) => bias === null ? 0 : 1),
    },
  });
}
