import { ABSENT, type GraphBuilder, type Value } from "../onnx/mod.ts";
import type { Accumulator } from "../models/dense_block.ts";
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

/**
 * What the orders of a Mamba-2 mixer are made from, added up over calibration tokens:
 *
 * | name | shape | |
 * |---|---|---|
 * | `stepped_energies` | `[H, N]` | sums of squares of Δ·B |
 * | `read_energies` | `[G, N]` | sums of squares of C |
 * | `state_grams` | `[H, P, P]` | `Σ S·Sᵀ` of the states at the ends of chunks |
 *
 * The state of a chunk is that of the chunk alone, as if it began with zeros (uniql.md §3.7):
 * `S[p, m] = Σ_t exp(a_last − a_t) · Δ_t · x_t[p] · B_t[m]` with `a_t` the sum of Δ·A up to t. The last chunk of a
 * sequence can be shorter; steps of zero fill it up, which neither write nor decay.
 */
export function stateSpaceStatistics(
  graph: GraphBuilder,
  { x, b, c, delta, logDecay }: ScanInputs,
  { numHeads: H, headDim: P, numGroups: G, stateSize: N, chunkSize }: Pick<
    MambaConfig,
    "numHeads" | "headDim" | "numGroups" | "stateSize" | "chunkSize"
  >,
): Accumulator[] {
  const reshape = (value: Value, ...shape: number[]) => graph.op("Reshape", [value, graph.integers(shape)]);
  const transpose = (value: Value, perm: readonly number[]) => graph.op("Transpose", [value], { attributes: { perm } });
  const square = (value: Value) => graph.op("Mul", [value, value]);

  const steps = transpose(reshape(square(delta), -1, G, H / G), [1, 2, 0]); // [G, H/G, rows]
  const written = transpose(square(b), [1, 0, 2]); // [G, rows, N]
  const stepped = reshape(graph.op("MatMul", [steps, written]), H, N);
  const read = graph.op("ReduceSum", [square(c), graph.integers([0])], { attributes: { keepdims: 0 } });

  const rows = graph.op("Slice", [graph.op("Shape", [delta]), graph.integers([0]), graph.integers([1])]);
  const missing = graph.op("Mod", [graph.op("Neg", [rows]), graph.integers([chunkSize])]);
  const pads = graph.op("Concat", [graph.integers([0]), missing], { attributes: { axis: 0 } });
  const fill = (value: Value) => graph.op("Pad", [value, pads, ABSENT, graph.integers([0])]);

  const decays = reshape(fill(logDecay), -1, chunkSize, H); // [chunks, L, H]
  const triangle = Float32Array.from(
    { length: chunkSize * chunkSize },
    (_, at) => at % chunkSize > Math.floor(at / chunkSize) ? 1 : 0,
  );
  // Row t: the sum of what comes after t, which is a_last − a_t.
  const behind = graph.op("MatMul", [graph.floats(triangle, [chunkSize, chunkSize]), decays]);
  const weights = graph.op("Mul", [graph.op("Exp", [behind]), reshape(fill(delta), -1, chunkSize, H)]);
  const weighted = graph.op("Mul", [
    reshape(fill(x), -1, chunkSize, H, P),
    graph.op("Unsqueeze", [weights, graph.integers([3])]),
  ]);
  const inputs = reshape(transpose(weighted, [0, 2, 3, 1]), ...[-1, G, H / G * P, chunkSize]);
  const keys = transpose(reshape(fill(b), -1, chunkSize, G, N), [0, 2, 1, 3]); // [chunks, G, L, N]
  const states = reshape(graph.op("MatMul", [inputs, keys]), -1, H, P, N);
  const perHead = reshape(transpose(states, [1, 2, 0, 3]), ...[H, P, -1]); // [H, P, chunks · N]
  const grams = graph.op("MatMul", [perHead, transpose(perHead, [0, 2, 1])]);
  return [
    { name: "stepped_energies", shape: [H, N], increment: stepped },
    { name: "read_energies", shape: [G, N], increment: read },
    { name: "state_grams", shape: [H, P, P], increment: grams },
  ];
}
