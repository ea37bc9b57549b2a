import type { GraphBuilder, Value } from "../../onnx/mod.ts";
import type { Matrix } from "../plan.ts";
import type { Chunk } from "../widths.ts";
import type { Gates } from "./gates.ts";
import type { Weights } from "./weights.ts";

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
export function cutOutputs(
  graph: GraphBuilder,
  { x, chunks, matrixOf, gates, weights }: {
    x: Value;
    chunks: readonly Chunk[];
    matrixOf: (index: number) => Matrix;
    gates: Gates;
    weights: Weights;
  },
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
export function cutInputs(
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
