import { ElementType, type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import { type ModelConfig, rotaryDimOf } from "../description.ts";
import { ropeFrequencies } from "../rope.ts";
import type { AttentionCore, RotatedAttention } from "./block_context.ts";

/** Rotates the query and key heads of a packed row and leaves its value heads as they are. */
export interface Rotary {
  /**
   * @param packed `[rows, heads, width]`, heads as in `qkvMatrix`, members of a pair side by side.
   * @param pairs int64 `[G, width / 2]`: which original pair, hence which frequency, stands at each place of a head; R/2
   * where the two components there are not to be turned.
   */
  rotate(graph: GraphBuilder, packed: Value, pairs: Value, width: number): Value;
}

/**
 * RoPE with gathered frequencies (uniql.md §7.2), as one stock operator over all heads.
 *
 * Every head of every row is a sequence of one token to the operator: row `r`, key/value head `g` finds its angles in line
 * `(r + 1)·G + g` of a table gathered for the layer. The first G lines are those of position 0, which turn nothing:
 * there the value heads look.
 *
 * @param positions int64 `[rows]`: each row's place in its sequence.
 * @param type Of the heads. Angles are float32 whatever it is: far positions need its digits.
 */
export function rotaryOf(
  builder: GraphBuilder,
  config: ModelConfig,
  positions: Value,
  type: ElementType = ElementType.float32,
): Rotary {
  const { numAttentionHeads, numKeyValueHeads } = config;
  const heads = numAttentionHeads + 2 * numKeyValueHeads;
  let tables: ReturnType<typeof angleTables> | undefined;
  return {
    rotate(graph, packed, order, width) {
      const { cosines, sines, lines } = tables ??= angleTables(builder, config, positions, type);
      const table = (values: Value) =>
        graph.op("Reshape", [
          graph.op("Gather", [values, graph.op("Reshape", [order, graph.integers([-1])])], { attributes: { axis: 1 } }),
          graph.integers([-1, width / 2]),
        ]);
      const flat = graph.op("Reshape", [packed, graph.integers([-1, 1, width])]);
      const rotated = graph.op("RotaryEmbedding", [flat, lines, table(cosines), table(sines)], {
        domain: MICROSOFT,
        attributes: { interleaved: 1 },
      });
      return graph.op("Reshape", [rotated, graph.integers([-1, heads, width])]);
    },
  };
}

/** Rotary positions, then attention, as operators of their own. */
export function afterRotation(rotary: Rotary, core: RotatedAttention): AttentionCore {
  return {
    attend(graph, packed, block, { pairs, tap }) {
      const rotated = pairs === null ? packed : rotary.rotate(graph, packed, pairs, block.widths[0]!);
      tap?.(`${block.name}.heads`, rotated);
      return core.attend(graph, rotated, block);
    },
  };
}

/**
 * Cosines and sines of every original pair's angle, the last one of a pair that is not turned if a model has such.
 *
 * @param positions int64 `[rows]`
 * @returns Two of `[rows, R/2]`, or `[rows, R/2 + 1]`.
 */
export function rotaryAngles(
  graph: GraphBuilder,
  config: ModelConfig,
  positions: Value,
): { readonly cosines: Value; readonly sines: Value } {
  const frequencies = frequenciesOf(config);
  const float = { attributes: { to: ElementType.float32 } };
  const column = graph.op("Unsqueeze", [graph.op("Cast", [positions], float), graph.integers([1])]);
  const angles = graph.op("Mul", [column, graph.floats(frequencies, [1, frequencies.length])]);
  return { cosines: graph.op("Cos", [angles]), sines: graph.op("Sin", [angles]) };
}

/**
 * As `rotaryAngles`, looked up in tables of so many positions: one small operator each in place of five. And a row gets the
 * same bits whatever rows are beside it: the runtime computes the last few of an array by other instructions than the
 * rest, which are now and then a bit away.
 *
 * @param positions int64 `[rows]`
 */
export function tabledAngles(
  graph: GraphBuilder,
  config: ModelConfig,
  positions: Value,
  length: number,
): { readonly cosines: Value; readonly sines: Value } {
  const { cosines, sines } = tablesOfAngles(graph, config, length);
  const rows = (values: Value) => graph.op("Gather", [values, positions]);
  return { cosines: rows(cosines), sines: rows(sines) };
}

/** The tables themselves: two constants `[length, frequencies]`, a line for each of the first positions of a sequence. */
export function tablesOfAngles(
  graph: GraphBuilder,
  config: ModelConfig,
  length: number,
): { readonly cosines: Value; readonly sines: Value } {
  const frequencies = frequenciesOf(config).map(Math.fround);
  const table = (of: (angle: number) => number) => {
    const values = new Float32Array(length * frequencies.length);
    for (let position = 0, i = 0; position < length; position++) {
      // Rounded as in `rotaryAngles`: far positions turn by this.
      for (const frequency of frequencies) values[i++] = of(Math.fround(position * frequency));
    }
    return graph.floats(values, [length, frequencies.length]);
  };
  return { cosines: table(Math.cos), sines: table(Math.sin) };
}

/** Radians per position of every original pair, and 0 last if a model has components that are not turned. */
function frequenciesOf(config: ModelConfig): number[] {
  const rotaryDim = rotaryDimOf(config);
  return [...ropeFrequencies(config.rope, rotaryDim), ...(rotaryDim < config.headDim ? [0] : [])];
}

/** Angles of position 0 and of every row, `[rows + 1, pairs]`, and the line of every head of every row. */
function angleTables(graph: GraphBuilder, config: ModelConfig, positions: Value, type: ElementType) {
  const { numAttentionHeads, numKeyValueHeads } = config;
  const withZero = graph.op("Concat", [graph.integers([0]), positions], { attributes: { axis: 0 } });
  const angles = rotaryAngles(graph, config, withZero);
  const typed = (value: Value) =>
    type === ElementType.float32 ? value : graph.op("Cast", [value], { attributes: { to: type } });

  const groupSize = numAttentionHeads / numKeyValueHeads;
  const heads = numAttentionHeads + 2 * numKeyValueHeads;
  const group = (head: number) =>
    head < numAttentionHeads ? Math.floor(head / groupSize) : (head - numAttentionHeads) % numKeyValueHeads;
  const isValue = (head: number) => head >= numAttentionHeads + numKeyValueHeads;
  const perHead = (of: (head: number) => number) =>
    graph.integers(Array.from({ length: heads }, (_, h) => of(h)), [1, heads]);
  const rows = graph.op("Squeeze", [graph.op("Shape", [positions])]);
  const first = graph.op("Range", [graph.integers(0), rows, graph.integers(1)]);
  const rowLine = graph.op("Mul", [
    graph.op("Add", [graph.op("Unsqueeze", [first, graph.integers([1])]), graph.integers([1])]),
    perHead((head) => isValue(head) ? 0 : numKeyValueHeads),
  ]);
  const lines = graph.op("Reshape", [
    graph.op("Add", [rowLine, perHead((head) => isValue(head) ? 0 : group(head))]),
    graph.integers([-1, 1]),
  ]);

  return { cosines: typed(angles.cosines), sines: typed(angles.sines), lines };
}
