import { ABSENT, type Attribute, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import { mambaOf, type ModelConfig } from "../description.ts";
import { blockVectors, type MambaPlan } from "../plan.ts";
import type { LaneInputs } from "./cached_attention.ts";
import type { AddOperator } from "./chain.ts";
import type { LaneArrays } from "./lane_arrays.ts";
import type { StateSpaceMixer } from "./state_space.ts";
import type { Weights } from "./weights.ts";

/** Our own operator: one per Mamba block for the states of all lanes, see `kernels/native/selective_scan.h`. */
export function selectiveScan(
  config: ModelConfig,
  weights: Weights,
  lanes: LaneInputs,
  { arrays, places, firstOf }: LaneArrays,
  add: AddOperator,
): StateSpaceMixer {
  return {
    mix(graph, projected, block) {
      if (!("whole" in projected)) throw new TypeError("Cannot scan axes that do not lie side by side");
      return add(graph, "SelectiveScan", [
        ...[projected.whole, lanes.rows, lanes.levels, places],
        ...scanVectors(graph, config, weights, block),
        ...arrays,
      ], {
        ...scanAttributes(config, block),
        channel_widths: block.widths,
        state_widths: block.stateWidths,
        first_cache: firstOf(block),
      });
    },
  };
}

/** The vectors of a block that the operator takes as constants, in its order; absent where the block has none. */
export function scanVectors(graph: GraphBuilder, config: ModelConfig, weights: Weights, block: MambaPlan): Value[] {
  const lengths = new Map(blockVectors(config, block).map(({ name, length }) => [name, length]));
  return [
    ...["conv_x", "conv_x_bias", "conv_bc", "conv_bc_bias"],
    ...["a_log", "dt_bias", "skip", "gated_norm"],
  ].map((part) => {
    const name = `${block.name}.${part}`;
    const length = lengths.get(name);
    return length === undefined ? ABSENT : weights.vector(graph, name, length);
  });
}

/** What the operator is told of a block. */
export function scanAttributes(config: ModelConfig, block: MambaPlan): Record<string, Attribute> {
  const { numHeads, headDim, numGroups, stateSize, convKernel, timeStepLimit: [least, greatest] } = mambaOf(config);
  return {
    heads: numHeads,
    channels: block.widths[0]!,
    full_channels: headDim,
    groups: numGroups,
    states: block.stateWidths[0]!,
    full_states: stateSize,
    taps: convKernel,
    conv_bias: block.convBias ? 1 : 0,
    least_delta: { float: least },
    greatest_delta: { float: greatest ?? Infinity },
    epsilon: { float: config.rmsNormEps },
  };
}
