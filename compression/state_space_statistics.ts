import { ABSENT, type GraphBuilder, type Value } from "../onnx/mod.ts";
import type { Accumulator, Statistic } from "../models/dense_block.ts";
import type { MambaConfig } from "../models/description.ts";

/** What a Mamba-2 mixer's recurrence reads, for the rows of one whole sequence. */
export interface ScanInputs {
  /** `[rows, H, P]`, after convolution and SiLU; so are B and C. */
  readonly x: Value;
  /** `[rows, G, N]` */
  readonly b: Value;
  /** `[rows, G, N]` */
  readonly c: Value;
  /** `[rows, H]`: the discretised step Δ. */
  readonly delta: Value;
  /** `[rows, H]`: Δ·A, the logarithm of what a step leaves of the state. */
  readonly logDecay: Value;
}

/** A statistic of what a mixer's recurrence reads, which the block's graph shows one by one. */
export function ofScanInputs(build: (graph: GraphBuilder, inputs: ScanInputs) => Accumulator[]): Statistic {
  const shown = new Map<string, Value>();
  return (graph, activation, value) => {
    shown.set(activation, value);
    const [x, bc, delta, logDecay] = SCAN_ACTIVATIONS.map((name) => shown.get(name));
    if (!SCAN_ACTIVATIONS.includes(activation) || !x || !bc || !delta || !logDecay) return [];
    const [b, c] = graph.ops("Split", [bc], 2, { attributes: { axis: 1, num_outputs: 2 } });
    return build(graph, { x, b: b!, c: c!, delta, logDecay });
  };
}

const SCAN_ACTIVATIONS = ["x", "bc", "delta", "decay"];

/**
 * What the order of a Mamba-2 mixer's states is made from, added up over calibration tokens:
 *
 * | name | shape | |
 * |---|---|---|
 * | `stepped_energies` | `[H, N]` | sums of squares of Δ·B |
 * | `read_energies` | `[G, N]` | sums of squares of C |
 */
export function stateEnergies(
  graph: GraphBuilder,
  { b, c, delta }: Pick<ScanInputs, "b" | "c" | "delta">,
  { numHeads: H, numGroups: G, stateSize: N }: Pick<MambaConfig, "numHeads" | "numGroups" | "stateSize">,
): Accumulator[] {
  const square = (value: Value) => graph.op("Mul", [value, value]);
  const steps = transposed(graph, reshaped(graph, square(delta), -1, G, H / G), [1, 2, 0]); // [G, H/G, rows]
  const written = transposed(graph, square(b), [1, 0, 2]); // [G, rows, N]
  const stepped = reshaped(graph, graph.op("MatMul", [steps, written]), H, N);
  const read = graph.op("ReduceSum", [square(c), graph.integers([0])], { attributes: { keepdims: 0 } });
  return [
    { name: "stepped_energies", shape: [H, N], increment: stepped },
    { name: "read_energies", shape: [G, N], increment: read },
  ];
}

/**
 * What the order of the channels of each head is made from, added up over calibration tokens: `state_grams` `[H, P, P]`,
 * `Σ S·Sᵀ` of the states at the ends of chunks.
 *
 * The state of a chunk is that of the chunk alone, as if it began with zeros (uniql.md §3.7):
 * `S[p, m] = Σ_t exp(a_last − a_t) · Δ_t · x_t[p] · B_t[m]` with `a_t` the sum of Δ·A up to t. The last chunk of a
 * sequence can be shorter; steps of zero fill it up, which neither write nor decay.
 */
export function stateGrams(
  graph: GraphBuilder,
  { x, b, delta, logDecay }: Omit<ScanInputs, "c">,
  { numHeads: H, headDim: P, numGroups: G, stateSize: N, chunkSize }: Pick<
    MambaConfig,
    "numHeads" | "headDim" | "numGroups" | "stateSize" | "chunkSize"
  >,
): Accumulator[] {
  const rows = graph.op("Slice", [graph.op("Shape", [delta]), graph.integers([0]), graph.integers([1])]);
  const missing = graph.op("Mod", [graph.op("Neg", [rows]), graph.integers([chunkSize])]);
  const pads = graph.op("Concat", [graph.integers([0]), missing], { attributes: { axis: 0 } });
  const fill = (value: Value) => graph.op("Pad", [value, pads, ABSENT, graph.integers([0])]);

  const decays = reshaped(graph, fill(logDecay), -1, chunkSize, H); // [chunks, L, H]
  const triangle = Float32Array.from(
    { length: chunkSize * chunkSize },
    (_, at) => at % chunkSize > Math.floor(at / chunkSize) ? 1 : 0,
  );
  // Row t: the sum of what comes after t, which is a_last − a_t.
  const behind = graph.op("MatMul", [graph.floats(triangle, [chunkSize, chunkSize]), decays]);
  const weights = graph.op("Mul", [graph.op("Exp", [behind]), reshaped(graph, fill(delta), -1, chunkSize, H)]);
  const weighted = graph.op("Mul", [
    reshaped(graph, fill(x), -1, chunkSize, H, P),
    graph.op("Unsqueeze", [weights, graph.integers([3])]),
  ]);
  const inputs = reshaped(graph, transposed(graph, weighted, [0, 2, 3, 1]), ...[-1, G, H / G * P, chunkSize]);
  const keys = transposed(graph, reshaped(graph, fill(b), -1, chunkSize, G, N), [0, 2, 1, 3]); // [chunks, G, L, N]
  const states = reshaped(graph, graph.op("MatMul", [inputs, keys]), -1, H, P, N);
  const perHead = reshaped(graph, transposed(graph, states, [1, 2, 0, 3]), ...[H, P, -1]); // [H, P, chunks · N]
  const grams = graph.op("MatMul", [perHead, transposed(graph, perHead, [0, 2, 1])]);
  return [{ name: "state_grams", shape: [H, P, P], increment: grams }];
}

function reshaped(graph: GraphBuilder, value: Value, ...shape: number[]): Value {
  return graph.op("Reshape", [value, graph.integers(shape)]);
}

function transposed(graph: GraphBuilder, value: Value, perm: readonly number[]): Value {
  return graph.op("Transpose", [value], { attributes: { perm } });
}
