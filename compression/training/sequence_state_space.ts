import { type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import { type MambaConfig, mambaOf, type ModelConfig } from "../../models/description.ts";
import { type SequenceOperations, type StateSpaceCore, wholeSequences } from "../../models/graph/state_space.ts";

/**
 * A Mamba block's core over the rows of B whole sequences of T tokens each, written out with operators that have
 * gradients: training. Rows lie sequence after sequence.
 *
 * @param length T; the rows must be a multiple of it.
 */
export function trainableStateSpace(config: ModelConfig, length: number): StateSpaceCore {
  return wholeSequences(config, sequenceOperations(config, length));
}

/** What that core is made of. */
export function sequenceOperations(config: ModelConfig, length: number): SequenceOperations {
  return {
    convolve: (graph, channels, weight, bias) =>
      convolveSequences(graph, { x: channels, weight, bias }, { kernel: mambaOf(config).convKernel, length }),
    scan: (graph, inputs) => scanSequences(graph, inputs, mambaOf(config), length),
  };
}

/**
 * A causal depthwise convolution and SiLU: `silu(bias[c] + Σ_k weight[c, k] · x[t − (K − 1) + k, c])`, with zeros before a
 * sequence.
 *
 * @param x `[rows, channels]`
 * @param weight `[channels, 1, K]`, oldest tap first
 * @param bias `[channels]`
 * @param kernel K
 */
export function convolveSequences(
  graph: GraphBuilder,
  { x, weight, bias }: { x: Value; weight: Value; bias: Value | null },
  { kernel, length }: { kernel: number; length: number },
): Value {
  const channels = graph.op("Slice", [graph.op("Shape", [weight]), graph.integers([0]), graph.integers([1])]);
  const joined = (...sizes: Value[]) => graph.op("Concat", sizes, { attributes: { axis: 0 } });
  const sequences = graph.op("Reshape", [x, joined(graph.integers([-1, length]), channels)]);
  const perTap = graph.op("Transpose", [graph.op("Squeeze", [weight, graph.integers([1])])], {
    attributes: { perm: [1, 0] },
  });
  const taps = graph.ops("Split", [perTap], kernel, { attributes: { axis: 0, num_outputs: kernel } });
  const parts = taps.map((tap, k) => {
    const late = kernel - 1 - k; // tokens by which this tap looks back
    const shifted = late === 0 ? sequences : graph.op("Pad", [sequences, graph.integers([0, late, 0, 0, -late, 0])]);
    return graph.op("Mul", [shifted, tap]);
  });
  const sum = graph.op("Sum", bias === null ? parts : [...parts, bias]);
  const flat = graph.op("Reshape", [sum, joined(graph.integers([-1]), channels)]);
  return graph.op("QuickGelu", [flat], { domain: MICROSOFT, attributes: { alpha: { float: 1 } } });
}

/**
 * The state-space recurrence in its quadratic form (structured state-space duality): with `a_t = Σ_{s ≤ t} decay_s`,
 *
 *     y_t = Σ_{s ≤ t} (C_t · B_s) · exp(a_t − a_s) · x_s
 *
 * for each head, B and C shared by the heads of a group. It equals `S_t = exp(decay_t) S_{t−1} + B_t x_tᵀ`, `y_t = C_t S_t`
 * from a state of zeros.
 *
 * @param x Δ·x `[rows, H, P]`
 * @param b `[rows, G, N]`
 * @param c `[rows, G, N]`
 * @param decay Δ·A `[rows, H]`
 * @param length T
 * @returns `[rows, H, P]`
 * @see Mamba-2, https://arxiv.org/abs/2405.21060
 */
export function scanSequences(
  graph: GraphBuilder,
  { x, b, c, decay }: Record<"x" | "b" | "c" | "decay", Value>,
  { numHeads: H, headDim: P, numGroups: G, stateSize: N }: Pick<
    MambaConfig,
    "numHeads" | "headDim" | "numGroups" | "stateSize"
  >,
  length: number,
): Value {
  const T = length;
  const reshape = (value: Value, ...shape: number[]) => graph.op("Reshape", [value, graph.integers(shape)]);
  const transpose = (value: Value, perm: readonly number[]) => graph.op("Transpose", [value], { attributes: { perm } });
  const triangle = (inside: number, outside: number) =>
    graph.floats(
      Float32Array.from({ length: T * T }, (_, at) => at % T <= Math.floor(at / T) ? inside : outside),
      [T, T],
    );

  // Sums up to each token: the decay between two tokens is the difference of theirs. [B, T, H]
  const sums = graph.op("MatMul", [triangle(1, 0), reshape(decay, -1, T, H)]);
  const perHead = transpose(sums, [0, 2, 1]); // [B, H, T]
  const spans = graph.op("Sub", [
    graph.op("Unsqueeze", [perHead, graph.integers([3])]),
    graph.op("Unsqueeze", [perHead, graph.integers([2])]),
  ]);
  // Tokens to come are taken out before the exponential, which could overflow for them.
  const decays = graph.op("Exp", [graph.op("Add", [spans, triangle(0, -Infinity)])]); // [B, H, T, T]

  const keys = transpose(reshape(b, -1, T, G, N), [0, 2, 3, 1]); // [B, G, N, T]
  const queries = transpose(reshape(c, -1, T, G, N), [0, 2, 1, 3]); // [B, G, T, N]
  const products = reshape(graph.op("MatMul", [queries, keys]), -1, G, 1, T, T);
  const mixing = reshape(
    graph.op("Mul", [products, reshape(decays, -1, G, H / G, T, T)]),
    ...[-1, H, T, T],
  );
  const values = transpose(reshape(x, -1, T, H, P), [0, 2, 1, 3]); // [B, H, T, P]
  return reshape(transpose(graph.op("MatMul", [mixing, values]), [0, 2, 1, 3]), -1, H, P);
}
