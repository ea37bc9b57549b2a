import { ABSENT, type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import { mambaOf, type ModelConfig } from "../description.ts";
import type { MambaPlan } from "../plan.ts";
import type { Axes, Tap } from "./elastic_linear.ts";

/** What stands between a Mamba block's projections: from dt to the gated norm. */
export interface StateSpaceMixer {
  /**
   * @param projected z's heads and x's `[rows, 2H, P]`, B's groups and C's `[rows, 2G, N]`, and dt `[rows, H, 1]`.
   * @param tap Shown what a statistic may want, where it exists for all rows at once.
   * @returns `[rows, H, P]`; zero in the channels that a row's level does not keep.
   */
  mix(graph: GraphBuilder, projected: Axes, block: MambaPlan, tap?: Tap): Value;
}

/**
 * What the core of a mixer of stock operators takes. Letters: H heads, P channels of a head (`widths[0]`), G groups, N
 * states of a group (`stateWidths[0]`), k taps.
 */
export interface StateSpaceInputs {
  /** `[rows, H, P]`, before the convolution. */
  readonly x: Value;
  /** `[rows, 2G, N]`: B's groups, then C's, before the convolution. */
  readonly bc: Value;
  /** Δ `[rows, H]` */
  readonly delta: Value;
  /** Logarithm of what a step leaves of the state: Δ·A `[rows, H]`. */
  readonly decay: Value;
}

/** A depthwise convolution of several heads' channels. */
export interface Convolution {
  /** `[heads, width, k]` at the full width. */
  readonly weight: Value;
  /** `[heads, width]` */
  readonly bias: Value | null;
}

export interface StateSpaceParameters {
  readonly convX: Convolution;
  readonly convBc: Convolution;
  /** D: `[H, 1]`, or `[H, P]` at the full width. */
  readonly skip: Value;
}

/** Convolution, SiLU, recurrence and skip of a Mamba block. */
export interface StateSpaceCore {
  /**
   * @param tap Shown `x` and `bc` after convolution and SiLU, where they exist for all rows at once.
   * @returns `[rows, H, P]`; zero in the channels that a row's level does not keep.
   */
  mix(
    graph: GraphBuilder,
    inputs: StateSpaceInputs,
    parameters: StateSpaceParameters,
    block: MambaPlan,
    tap?: Tap,
  ): Value;
}

/** The two operations along a sequence that a core for whole sequences is made of. */
export interface SequenceOperations {
  /**
   * Causal depthwise convolution and SiLU.
   *
   * @param channels `[rows, C]`
   * @param weight `[C, 1, k]`, oldest tap first.
   * @param bias `[C]`
   * @returns `[rows, C]`
   */
  convolve(graph: GraphBuilder, channels: Value, weight: Value, bias: Value | null): Value;
  /**
   * `S ← exp(decay)·S + b ⊗ x`, `y = c·S`, from a state of zeros.
   *
   * @param x Δ·x `[rows, H, P]`; `b`, `c` `[rows, G, N]`; `decay` `[rows, H]`.
   * @returns `[rows, H, P]`
   */
  scan(graph: GraphBuilder, inputs: Record<"x" | "b" | "c" | "decay", Value>): Value;
}

/** A core for rows that are whole sequences at full width: calibration, evaluation, training. */
export function wholeSequences(config: ModelConfig, { convolve, scan }: SequenceOperations): StateSpaceCore {
  return {
    mix(graph, { x, bc, delta, decay }, { convX, convBc, skip }, _block, tap) {
      const { numHeads, headDim, numGroups, stateSize, convKernel } = mambaOf(config);
      const reshape = (value: Value, ...shape: number[]) => graph.op("Reshape", [value, graph.integers(shape)]);
      const convolved = (value: Value, { weight, bias }: Convolution, heads: number, width: number) =>
        reshape(
          convolve(
            graph,
            reshape(value, -1, heads * width),
            reshape(weight, heads * width, 1, convKernel),
            bias && reshape(bias, heads * width),
          ),
          ...[-1, heads, width],
        );
      const channels = convolved(x, convX, numHeads, headDim);
      const states = convolved(bc, convBc, 2 * numGroups, stateSize);
      tap?.("x", channels);
      tap?.("bc", states);
      const [b, c] = graph.ops("Split", [states], 2, { attributes: { axis: 1, num_outputs: 2 } });
      const scaled = graph.op("Mul", [channels, graph.op("Unsqueeze", [delta, graph.integers([2])])]);
      return graph.op("Add", [
        scan(graph, { x: scaled, b: b!, c: c!, decay }),
        graph.op("Mul", [channels, skip]),
      ]);
    },
  };
}

/**
 * Stock causal convolution with SiLU.
 *
 * @param channels `[1, rows, C]`; `weight` `[C, 1, k]`; `bias` `[C]`.
 * @param past The last k − 1 inputs before these, `[1, k − 1, C]`; null at the start of a sequence.
 * @returns `[1, rows, C]`, then the last k − 1 inputs.
 */
export function causalConvolution(
  graph: GraphBuilder,
  { channels, weight, bias, past }: { channels: Value; weight: Value; bias: Value | null; past: Value | null },
): readonly Value[] {
  return graph.ops("CausalConvWithState", [channels, weight, bias ?? ABSENT, past ?? ABSENT], 2, {
    domain: MICROSOFT,
    attributes: { activation: "silu", channels_last: 1, ndim: 1 },
  });
}

/**
 * The state-space recurrence as stock gated linear attention: C asks, B is the key and Δ·x the value.
 *
 * @param query C `[1, rows, G·N]`; `key` B likewise; `value` `[1, rows, H·P]`; `decay` `[1, rows, H]`.
 * @param past `[1, H, N, P]`; null for zeros.
 * @returns `[1, rows, H·P]`, then the state.
 */
export function gatedLinearAttention(
  graph: GraphBuilder,
  config: ModelConfig,
  { query, key, value, decay, past }: { query: Value; key: Value; value: Value; decay: Value; past: Value | null },
): readonly Value[] {
  const { numHeads, numGroups } = mambaOf(config);
  return graph.ops("LinearAttention", [query, key, value, past ?? ABSENT, decay], 2, {
    domain: MICROSOFT,
    attributes: {
      q_num_heads: numGroups,
      kv_num_heads: numHeads,
      update_rule: "gated",
      scale: { float: 1 },
    },
  });
}
