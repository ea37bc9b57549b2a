import { ABSENT, type Attribute, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import type { Matrix } from "../plan.ts";
import { type Chunk, chunkWidth } from "../widths.ts";
import { type AddOperator, ownNode } from "./chain.ts";
import type { CutMatrix, ElasticLinear, Norm, OutputAxis } from "./elastic_linear.ts";
import type { Int4Weights } from "./weights.ts";

/** The domain of those in `kernels/native/cuda/`, which run on a CUDA device. */
export const ESPALIER_CUDA = "espalier.cuda";

/** Whose operators multiply, and how these get at the weights. */
export interface Provider {
  readonly add: AddOperator;
  readonly blockSize: number;
  /** Inputs behind the residual, and what a node says of them. */
  constants(graph: GraphBuilder, chunks: readonly Matrix[]): {
    readonly inputs: readonly Value[];
    readonly attributes: Readonly<Record<string, Attribute>>;
  };
}

/**
 * On the CPU: every node takes the whole file and the places of its tensors in it.
 *
 * The runtime goes through all constants of a graph at the beginning and the end of every run. With one for every tensor
 * of every chunk that was a fourteenth of a step of 30 small blocks at 8 levels (Zen 5).
 */
export function cpuProvider(
  weights: Pick<Int4Weights, "blockSize" | "file" | "placeOf">,
  add: AddOperator = ownNode,
): Provider {
  return {
    add,
    blockSize: weights.blockSize,
    constants: (graph, chunks) => ({
      inputs: [weights.file(graph)],
      attributes: {
        places: chunks.map((matrix) => weights.placeOf(matrix))
          .flatMap(({ codes, scales, bias }) => bias === null ? [codes, scales] : [codes, scales, bias]),
      },
    }),
  };
}

/** On a CUDA device, where runs are captured once and played again: every tensor is an input. */
export function cudaProvider(weights: Pick<Int4Weights, "blockSize" | "stored">): Provider {
  return {
    add: (graph, op, inputs, attributes) => graph.op(op, inputs, { domain: ESPALIER_CUDA, attributes }),
    blockSize: weights.blockSize,
    constants: (graph, chunks) => ({
      inputs: chunks.map((matrix) => weights.stored(graph, matrix))
        .flatMap(({ codes, scales, bias }) => bias === null ? [codes, scales] : [codes, scales, bias]),
      attributes: {},
    }),
  };
}

/** Which axis of a `PrefixMatMul` is cut; see `kernels/native/prefix_matmul.h`. */
const CUT = { outputs: 0, gated: 1, inputs: 2 } as const;
const ACTIVATION = { none: 0, squaredRelu: 1 } as const;

/**
 * Our own operator: one per linear layer, which takes the row counts of the levels as an input, normalizes, joins
 * or gates, and adds the residual.
 *
 * @param rowsUpTo int64 `[levels]`: how many rows have a level of at most this one; null if there
 * is one level.
 */
export function prefixLinear(provider: Provider, rowsUpTo: Value | null): ElasticLinear {
  const add = (graph: GraphBuilder, layer: Omit<Product, "provider" | "rowsUpTo">) =>
    product(graph, { ...layer, provider, rowsUpTo });
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
  { provider, x, norm, matrix }: { provider: Provider; x: Value; norm?: Norm; matrix: Matrix },
): Value {
  return product(graph, {
    provider,
    rowsUpTo: null,
    x,
    ...(norm && { norm }),
    chunks: [{ start: 0, end: matrix.outFeatures, level: 0 }],
    matrixOf: () => matrix,
    cut: "outputs",
    axes: [{ groups: 1, widths: [matrix.outFeatures] }],
  });
}

/** The axis that all of a layer's chunks cut. */
function oneAxis({ groups, chunks }: { groups: number; chunks: readonly Chunk[] }): OutputAxis {
  return { groups, widths: chunks.map(chunkWidth) };
}

interface Product extends CutMatrix {
  readonly provider: Provider;
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
  { provider, rowsUpTo, chunks, matrixOf, x, norm, residual, cut, axes, activation = "none" }: Product,
): Value {
  const matrices = chunks.map((_, index) => matrixOf(index));
  const { inputs: constants, attributes } = provider.constants(graph, matrices);
  const inputs = [x, rowsUpTo ?? ABSENT, norm?.weight ?? ABSENT, residual ?? ABSENT, ...constants];
  const { inFeatures, outFeatures } = matrices[0]!;
  return provider.add(graph, "PrefixMatMul", inputs, {
    ...attributes,
    cut: CUT[cut],
    activation: ACTIVATION[activation],
    groups: axes.map(({ groups }) => groups),
    uncut: cut === "inputs" ? outFeatures : inFeatures,
    block_size: provider.blockSize,
    epsilon: { float: norm?.epsilon ?? 0 },
    widths: chunks.flatMap((_, index) => axes.map(({ widths }) => widths[index]!)),
    levels: chunks.map(({ level }) => level),
    biases: matrices.map(({ bias }) => bias ? 1 : 0),
  });
}
