import { ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import { mambaOf, type ModelConfig } from "../description.ts";
import type { MambaPlan } from "../plan.ts";
import type { LaneInputs } from "./cached_attention.ts";
import { causalConvolution, type Convolution, gatedLinearAttention, type StateSpaceCore } from "./state_space.ts";

/**
 * Names of a lane's states of a Mamba block: the last k − 1 inputs of the convolutions, `[1, k − 1, H·P']` and
 * `[1, k − 1, 2G·N']`, and the recurrent state `[1, H, N', P']`. The outputs are bound to the inputs' tensors.
 */
export function stateNames(
  block: MambaPlan,
  lane: number,
): Record<"convX" | "convBc" | "scan", { readonly past: string; readonly present: string }> {
  const names = (part: string) => ({
    past: `${block.name}.lane_${lane}.past_${part}`,
    present: `${block.name}.lane_${lane}.${part}`,
  });
  return { convX: names("conv_x"), convBc: names("conv_bc"), scan: names("state") };
}

/**
 * The state-space core of several sequences of different levels in one step.
 *
 * As in `cachedAttention` every lane has operators of its own, so that its states have the widths of its level. A lane
 * cuts the convolutions' weights to its widths: they are small, and their channels lie head by head. An idle lane runs
 * over no rows with states of one channel.
 */
export function cachedStateSpace(graph: GraphBuilder, config: ModelConfig, lanes: LaneInputs): StateSpaceCore {
  const alone = lanes.count === 1;
  const split = (value: Value) =>
    alone ? [value] : graph.ops("Split", [value], lanes.count, { attributes: { axis: 0, num_outputs: lanes.count } });
  const zero = graph.integers([0]);
  const concat = (...parts: Value[]) => graph.op("Concat", parts, { attributes: { axis: 0 } });
  const rows = split(lanes.rows);
  const levels = split(lanes.levels);
  let from = zero;
  const spans = rows.map((count) => {
    const start = from;
    from = graph.op("Add", [start, count]);
    return { start, end: from, count };
  });
  /** Kept size of an axis in a lane, int64 `[1]`. */
  const widthIn = (lane: number, widths: readonly number[]): Value => {
    if (alone) {
      return new Set(widths).size === 1
        ? graph.integers([widths[0]!])
        : graph.op("Gather", [graph.integers(widths), levels[lane]!]);
    }
    const idle = graph.op("Equal", [rows[lane]!, zero]);
    const place = graph.op("Where", [idle, graph.integers([widths.length]), levels[lane]!]);
    return graph.op("Gather", [graph.integers([...widths, IDLE_WIDTH]), place]);
  };

  return {
    mix(graph, { x, bc, delta, decay }, { convX, convBc, skip }, block) {
      const { numHeads, headDim, stateSize, convKernel } = mambaOf(config);
      const perChannelSkip = block.skipPerChannel;
      const deltas = graph.op("Unsqueeze", [delta, graph.integers([2])]);
      const mixed = spans.map(({ start, end, count }, lane) => {
        const names = stateNames(block, lane);
        const past = (name: string, shape: readonly (number | string)[]) =>
          graph.input(name, ElementType.float32, shape);
        const ofLane = (value: Value) => alone ? value : graph.op("Slice", [value, start, end, zero]);
        const sequence = (value: Value) =>
          graph.op("Unsqueeze", [graph.op("Flatten", [value], { attributes: { axis: 1 } }), zero]);

        /** @returns `[1, rows, heads · width]` */
        const convolve = (
          value: Value,
          { weight, bias }: Convolution,
          { width, widths, full, name }: {
            width: Value;
            widths: readonly number[];
            full: number;
            name: { readonly past: string; readonly present: string };
          },
        ): Value => {
          const narrow = (parameter: Value) =>
            alone && widths.every((kept) => kept === full)
              ? parameter
              : graph.op("Slice", [parameter, zero, width, graph.integers([1])]);
          const channels = alone && new Set(widths).size === 1
            ? value
            : graph.op("Slice", [value, concat(start, zero), concat(end, width), graph.integers([0, 2])]);
          const [convolved, present] = causalConvolution(graph, {
            channels: sequence(channels),
            weight: graph.op("Reshape", [narrow(weight), graph.integers([-1, 1, convKernel])]),
            bias: bias && graph.op("Reshape", [narrow(bias), graph.integers([-1])]),
            past: past(name.past, [1, convKernel - 1, `${name.past}.channels`]),
          });
          graph.output(name.present, present!, ElementType.float32);
          return convolved!;
        };

        const width = widthIn(lane, block.widths);
        const channels = convolve(x, convX, { width, widths: block.widths, full: headDim, name: names.convX });
        const states = convolve(bc, convBc, {
          width: widthIn(lane, block.stateWidths),
          widths: block.stateWidths,
          full: stateSize,
          name: names.convBc,
        });
        const [key, query] = graph.ops("Split", [states], 2, { attributes: { axis: 2, num_outputs: 2 } });
        // With no rows a dimension cannot be inferred, so all three are given.
        const perHead = (value: Value) =>
          graph.op("Reshape", [value, concat(count, graph.integers([numHeads]), width)], {
            attributes: { allowzero: 1 },
          });
        const heads = perHead(channels);
        const [result, state] = gatedLinearAttention(graph, config, {
          query: query!,
          key: key!,
          value: sequence(graph.op("Mul", [heads, ofLane(deltas)])),
          decay: graph.op("Unsqueeze", [ofLane(decay), zero]),
          past: past(names.scan.past, [1, numHeads, `${names.scan.past}.states`, `${names.scan.past}.channels`]),
        });
        graph.output(names.scan.present, state!, ElementType.float32);
        const kept = perChannelSkip ? graph.op("Slice", [skip, zero, width, graph.integers([1])]) : skip;
        const sum = graph.op("Add", [perHead(result!), graph.op("Mul", [heads, kept])]);
        if (alone && new Set(block.widths).size === 1) return sum;
        const missing = graph.op("Sub", [graph.integers([block.widths[0]!]), width]);
        return graph.op("Pad", [sum, concat(graph.integers([0, 0, 0, 0, 0]), missing)]);
      });
      return alone ? mixed[0]! : graph.op("Concat", mixed, { attributes: { axis: 0 } });
    },
  };
}

/** Channels and states of an idle lane's states, which no row reads. */
export const IDLE_WIDTH = 1;
