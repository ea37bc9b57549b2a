import { ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";

/**
 * Which rows of a step take part in which chunk.
 *
 * The rows of a step are ordered widest first, so the rows that need a chunk are the first so many. A chunk that nobody
 * needs gets zero rows and costs about a microsecond.
 */
export interface Gates {
  /** The narrowest level; its chunks take all rows and need no gate. */
  readonly lastLevel: number;
  /** The first rows of `x`, those whose level is at most `level`: `[rows, …]` → `[e, …]`. */
  take(graph: GraphBuilder, x: Value, level: number): Value;
  /** Rows of zeros behind `y` until there are as many as in the step: `[e, n]` → `[rows, n]`. */
  restore(graph: GraphBuilder, y: Value, level: number): Value;
  /** As `take`, and only the components `start` to `end` of every head: `[rows, heads, d]` → `[e, heads, end − start]`. */
  takeComponents(graph: GraphBuilder, x: Value, level: number, start: number, end: number): Value;
}

/** Nothing is gated: a graph of one level. */
export const ungated: Gates = {
  lastLevel: 0,
  take: (_graph, x) => x,
  restore: (_graph, y) => y,
  takeComponents: (graph, x, _level, start, end) =>
    graph.op("Slice", [x, graph.integers([start]), graph.integers([end]), graph.integers([2])]),
};

/**
 * Gates for several levels.
 *
 * @param rowsUpTo int64 `[levels]`: how many rows have a level of at most this one.
 */
export function gatesOf(graph: GraphBuilder, rowsUpTo: Value, levels: number): Gates {
  if (levels === 1) return ungated;
  const lastLevel = levels - 1;
  const counts = graph.ops("Split", [rowsUpTo], levels, { attributes: { axis: 0, num_outputs: levels } });
  const zero = graph.integers([0]);
  const all = counts[lastLevel]!;
  return {
    lastLevel,
    take(graph, x, level) {
      return level === lastLevel ? x : graph.op("Slice", [x, zero, counts[level]!, zero]);
    },
    restore(graph, y, level) {
      if (level === lastLevel) return y;
      const missing = graph.op("Sub", [all, counts[level]!]);
      const pads = graph.op("Concat", [graph.integers([0, 0]), missing, zero], { attributes: { axis: 0 } });
      return graph.op("Pad", [y, pads]);
    },
    takeComponents(graph, x, level, start, end) {
      const ends = graph.op("Concat", [counts[level]!, graph.integers([end])], { attributes: { axis: 0 } });
      return graph.op("Slice", [x, graph.integers([0, start]), ends, graph.integers([0, 2])]);
    },
  };
}

/** Counts rows per level from the lanes: int64 `[lanes]` rows and levels → int64 `[levels]`. */
export function countRowsUpTo(graph: GraphBuilder, laneRows: Value, laneLevels: Value, levels: number): Value {
  const column = graph.integers(Array.from({ length: levels }, (_, level) => level), [levels, 1]);
  const included = graph.op("Cast", [graph.op("LessOrEqual", [laneLevels, column])], {
    attributes: { to: ElementType.int64 },
  });
  return graph.op("ReduceSum", [graph.op("Mul", [included, laneRows]), graph.integers([1])], {
    attributes: { keepdims: 0 },
  });
}
