import { type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";

/**
 * The two recurrences of a Mamba-2 mixer over B whole sequences of T tokens each, written out with operators that have
 * gradients: training. Rows lie sequence after sequence.
 */
export interface SequenceShape {
  /** T; the rows must be a multiple of it. */
  readonly length: number;
}

/**
 * A causal depthwise convolution and SiLU: `silu(bias[c] + Σ_k weight[c, k] · x[t − (K − 1) + k, c])`, with zeros before a
 * sequence.
 *
 * @param x `[rows, channels]`
 * @param weight `[channels · K]`
 * @param bias `[channels]`
 * @param kernel K
 */
export function convolveSequences(
  graph: GraphBuilder,
  { x, weight, bias }: { x: Value; weight: Value; bias: Value | null },
  { channels, kernel }: { channels: number; kernel: number },
  { length }: SequenceShape,
): Value {
  const sequences = graph.op("Reshape", [x, graph.integers([-1, length, channels])]);
  const perTap = graph.op("Transpose", [graph.op("Reshape", [weight, graph.integers([channels, kernel])])], {
    attributes: { perm: [1, 0] },
  });
  const taps = graph.ops("Split", [perTap], kernel, { attributes: { axis: 0, num_outputs: kernel } });
  const parts = taps.map((tap, k) => {
    const late = kernel - 1 - k; // tokens by which this tap looks back
    const shifted = late === 0 ? sequences : graph.op("Pad", [sequences, graph.integers([0, late, 0, 0, -late, 0])]);
    return graph.op("Mul", [shifted, tap]);
  });
  const sum = graph.op("Sum", bias === null ? parts : [...parts, bias]);
  const flat = graph.op("Reshape", [sum, graph.integers([-1, channels])]);
  return graph.op("QuickGelu", [flat], { domain: MICROSOFT, attributes: { alpha: { float: 1 } } });
}

/**
 * The state-space recurrence in its quadratic form (structured state-space duality): with `a_t = Σ_{s ≤ t} Δ_s · A`,
 *
 *     y_t = Σ_{s ≤ t} (C_t · B_s) · exp(a_t − a_s) · Δ_s · x_s
 *
 * for each head, B and C shared by the heads of a group. It equals `h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_tᵀ`,
 * `y_t = C_t h_t`, from a state of zeros.
 *
 * @param x `[rows, H, P]`
 * @param b `[rows, G, N]`
 * @param c `[rows, G, N]`
 * @param delta `[rows, H]`, discretised steps.
 * @param decay `[rows, H]`, Δ·A: the logarithm of what a step leaves of the state.
 * @returns `[rows, H, P]`
 * @see Mamba-2, https://arxiv.org/abs/2405.21060
 */
export function scanSequences(
  graph: GraphBuilder,
  { x, b, c, delta, decay }: { x: Value; b: Value; c: Value; delta: Value; decay: Value },
  { heads: H, headDim: P, groups: G, stateSize: N }: {
    heads: number;
    headDim: number;
    groups: number;
    stateSize: number;
  },
  { length: T }: SequenceShape,
): Value {
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
  const inputs = graph.op("Mul", [
    reshape(x, -1, T, H, P),
    reshape(delta, -1, T, H, 1),
  ]);
  const mixed = graph.op("MatMul", [mixing, transpose(inputs, [0, 2, 1, 3])]); // [B, H, T, P]
  return reshape(transpose(mixed, [0, 2, 1, 3]), -1, H, P);
}
