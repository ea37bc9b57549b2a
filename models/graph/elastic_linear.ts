import { type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import type { Matrix } from "../plan.ts";
import { type Chunk, chunkWidth } from "../widths.ts";
import type { Gates } from "./gates.ts";
import { rmsNorm } from "./norm.ts";
import type { Weights } from "./weights.ts";

/** A norm that comes before a linear layer. */
export interface Norm {
  /** `[inFeatures]` */
  readonly weight: Value;
  readonly epsilon: number;
}

/** The stored matrices of a linear layer that is cut, one per chunk, widest levels last. */
export interface CutMatrix {
  readonly chunks: readonly Chunk[];
  readonly matrixOf: (index: number) => Matrix;
}

/** Channels between two linear layers: whole, `[rows, widest]`, or in chunks over the rows that keep them. */
export type Channels = { readonly whole: Value } | { readonly pieces: readonly Piece[] };

/** An axis of a layer's outputs that is cut inside `groups` heads, in its own way in every chunk. */
export interface OutputAxis {
  readonly groups: number;
  /** Components of every head in a chunk; 0 where only other axes grow. */
  readonly widths: readonly number[];
}

/** Outputs along several axes: side by side, `[rows, Σ groups · widest]`, or one value `[rows, groups, widest]` per axis. */
export type Axes = { readonly whole: Value } | { readonly each: readonly Value[] };

/** Shown an activation that a statistic may want. */
export type Tap = (name: string, value: Value) => void;

/**
 * Linear layers of which every row of a step uses a prefix. There are two lowerings: `chunkedLinear` with stock operators,
 * and `prefixLinear` with our own.
 */
export interface ElasticLinear {
  /**
   * A layer whose outputs are cut inside `groups` heads.
   *
   * @param x `[rows, inFeatures]`
   * @returns `[rows, groups, widest]`; zero in the components that a row's level does not keep.
   */
  toHeads(
    graph: GraphBuilder,
    layer: CutMatrix & { x: Value; norm: Norm; groups: number; tap?: Tap | undefined; name: string },
  ): Value;

  /**
   * A layer whose outputs are several axes, each cut inside heads of its own.
   *
   * @param x `[rows, inFeatures]`
   * @param axes Their rows follow each other in every chunk.
   * @returns Zero in the components that a row's level does not keep.
   */
  toAxes(
    graph: GraphBuilder,
    layer: CutMatrix & { x: Value; norm: Norm; axes: readonly OutputAxis[]; tap?: Tap | undefined; name: string },
  ): Axes;

  /**
   * A layer whose inputs are cut inside `groups` heads.
   *
   * @param x `[rows, groups, widest]`
   * @param residual `[rows, outFeatures]`, added.
   * @returns `[rows, outFeatures]`
   */
  fromHeads(
    graph: GraphBuilder,
    layer: CutMatrix & { x: Value; groups: number; residual: Value; tap?: Tap | undefined; name: string },
  ): Value;

  /**
   * `silu(gate) ⊙ up` of a layer whose chunks hold gate rows, then up rows.
   *
   * @param x `[rows, inFeatures]`
   */
  toGatedChannels(
    graph: GraphBuilder,
    layer: CutMatrix & { x: Value; norm: Norm; tap?: Tap | undefined; name: string },
  ): Channels;

  /**
   * `relu(up)²` of a layer whose chunks hold up rows.
   *
   * @param x `[rows, inFeatures]`
   */
  toRectifiedChannels(
    graph: GraphBuilder,
    layer: CutMatrix & { x: Value; norm: Norm; tap?: Tap | undefined; name: string },
  ): Channels;

  /**
   * A layer whose inputs are cut.
   *
   * @param residual `[rows, outFeatures]`, added.
   * @returns `[rows, outFeatures]`
   */
  fromChannels(graph: GraphBuilder, layer: CutMatrix & { channels: Channels; residual: Value }): Value;
}

/** Stock operators: one product per chunk, over the rows that keep it. */
export function chunkedLinear(weights: Weights, gates: Gates): ElasticLinear {
  const normed = (graph: GraphBuilder, x: Value, { weight, epsilon }: Norm, name: string, tap?: Tap) => {
    const value = rmsNorm(graph, x, weight, epsilon);
    tap?.(`${name}.input`, value);
    return value;
  };
  /** The channels of a layer, chunk by chunk, behind an activation. */
  const activated = (
    graph: GraphBuilder,
    { x, norm, chunks, matrixOf, tap, name }: CutMatrix & { x: Value; norm: Norm; tap?: Tap | undefined; name: string },
    activate: (graph: GraphBuilder, value: Value) => Value,
  ): Channels => {
    const input = normed(graph, x, norm, name, tap);
    const pieces = cutOutputs(graph, { x: input, chunks, matrixOf, gates, weights }).map((piece) => {
      const value = activate(graph, piece.value);
      tap?.(`${name}.hidden.${piece.index}`, value);
      return { ...piece, value };
    });
    return { pieces };
  };
  return {
    toHeads(graph, { x, norm, groups, chunks, matrixOf, tap, name }) {
      const input = normed(graph, x, norm, name, tap);
      const joined = cutOutputs(graph, { x: input, chunks, matrixOf, gates, weights }).map(({ value, chunk }) =>
        graph.op("Reshape", [
          gates.restore(graph, value, chunk.level),
          graph.integers([-1, groups, chunkWidth(chunk)]),
        ])
      );
      return joined.length === 1 ? joined[0]! : graph.op("Concat", joined, { attributes: { axis: 2 } });
    },

    toAxes(graph, { x, norm, axes, chunks, matrixOf, tap, name }) {
      const input = normed(graph, x, norm, name, tap);
      const joined = axes.map((): Value[] => []);
      for (const { value, chunk, index } of cutOutputs(graph, { x: input, chunks, matrixOf, gates, weights })) {
        const present = axes.map(({ groups, widths }, axis) => ({ groups, width: widths[index]!, axis }))
          .filter(({ width }) => width > 0);
        const restored = gates.restore(graph, value, chunk.level);
        const sizes = graph.integers(present.map(({ groups, width }) => groups * width));
        const pieces = present.length === 1
          ? [restored]
          : graph.ops("Split", [restored, sizes], present.length, { attributes: { axis: 1 } });
        present.forEach(({ groups, width, axis }, at) =>
          joined[axis]!.push(graph.op("Reshape", [pieces[at]!, graph.integers([-1, groups, width])]))
        );
      }
      const each = joined.map((values) =>
        values.length === 1 ? values[0]! : graph.op("Concat", values, { attributes: { axis: 2 } })
      );
      return { each };
    },

    fromHeads(graph, { x, groups, chunks, matrixOf, residual, tap, name }) {
      const pieces = chunks.map((chunk, index) => {
        const components = chunks.length === 1
          ? x
          : gates.takeComponents(graph, x, chunk.level, chunk.start, chunk.end);
        const value = graph.op("Reshape", [components, graph.integers([-1, groups * chunkWidth(chunk)])]);
        tap?.(`${name}.mixed.${index}`, value);
        return { value, chunk, index };
      });
      return cutInputs(graph, { pieces, matrixOf, gates, weights, residual });
    },

    toGatedChannels: (graph, layer) => activated(graph, layer, gate),
    toRectifiedChannels: (graph, layer) => activated(graph, layer, squaredRelu),

    fromChannels(graph, { channels, matrixOf, residual }) {
      if (!("pieces" in channels)) throw new TypeError("Cannot take whole channels into chunked products");
      return cutInputs(graph, { pieces: channels.pieces, matrixOf, gates, weights, residual });
    },
  };
}

/** The channels of one chunk, for the rows that keep them: `[e, n]`. */
export interface Piece {
  readonly value: Value;
  readonly chunk: Chunk;
  readonly index: number;
}

/**
 * A linear layer whose outputs are cut: one product per chunk, over the rows that keep it.
 *
 * @param x `[rows, inFeatures]`
 * @param matrixOf The stored matrix of a chunk.
 */
function cutOutputs(
  graph: GraphBuilder,
  { x, chunks, matrixOf, gates, weights }: CutMatrix & { x: Value; gates: Gates; weights: Weights },
): Piece[] {
  return chunks.map((chunk, index) => ({
    value: weights.product(graph, gates.take(graph, x, chunk.level), matrixOf(index)),
    chunk,
    index,
  }));
}

/**
 * A linear layer whose inputs are cut: one product per chunk, summed over the chunks and added to `residual`.
 *
 * @param residual `[rows, outFeatures]`
 * @returns `[rows, outFeatures]`
 */
function cutInputs(
  graph: GraphBuilder,
  { pieces, matrixOf, gates, weights, residual }: {
    pieces: readonly Piece[];
    matrixOf: (index: number) => Matrix;
    gates: Gates;
    weights: Weights;
    residual: Value;
  },
): Value {
  const parts = pieces.map(({ value, chunk, index }) =>
    gates.restore(graph, weights.product(graph, value, matrixOf(index)), chunk.level)
  );
  return graph.op(parts.length === 1 ? "Add" : "Sum", [residual, ...parts]);
}

/** `silu(gate) ⊙ up`: `[e, 2n]` → `[e, n]`. */
function gate(graph: GraphBuilder, gateUp: Value): Value {
  const [left, up] = graph.ops("Split", [gateUp], 2, { attributes: { axis: 1, num_outputs: 2 } });
  // QuickGelu is x · sigmoid(alpha · x): SiLU in one node.
  const silu = graph.op("QuickGelu", [left!], { domain: MICROSOFT, attributes: { alpha: { float: 1 } } });
  return graph.op("Mul", [silu, up!]);
}

function squaredRelu(graph: GraphBuilder, value: Value): Value {
  const rectified = graph.op("Relu", [value]);
  return graph.op("Mul", [rectified, rectified]);
}
