import type { ModelConfig } from "../../models/description.ts";
import type { ElasticLinear } from "../../models/graph/elastic_linear.ts";
import { type StateSpaceCore, wholeSequences } from "../../models/graph/state_space.ts";
import type { BlockPlan, ModelPlan } from "../../models/plan.ts";
import { ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import { sequenceOperations } from "../training/sequence_state_space.ts";

/** The prunable axes of a block, by the name of its kept widths. */
type Axis = "widths" | "stateWidths";

/**
 * Zeroes what each sequence's level does not keep: the tail of the last axis.
 *
 * @param value `[rows, …, full width]`
 * @param block The name of its block.
 */
export type Mask = (graph: GraphBuilder, value: Value, block: string, axis?: Axis) => Value;

/**
 * Masks for sequences of several levels in one batch, each as wide as its own.
 *
 * @param plan With the widths of every level.
 * @param levels int64 `[sequences]`
 */
export function masksOf({ layers }: ModelPlan, levels: Value): Mask {
  const blocks = new Map(layers.flat().map((block) => [block.name, block]));
  const made = new Map<string, Value>();
  /** Ones up to each sequence's width, then zeros: `[sequences, 1, full width]`. */
  const maskFor = (graph: GraphBuilder, widths: readonly number[]) => {
    const kept = graph.op("Gather", [graph.integers(widths), levels]);
    const places = graph.integers(Array.from({ length: widths[0]! }, (_, place) => place));
    const inside = graph.op("Less", [places, graph.op("Unsqueeze", [kept, graph.integers([1, 2])])]);
    return graph.op("Cast", [inside], { attributes: { to: ElementType.float32 } });
  };
  return (graph, value, block, axis = "widths") => {
    const widths = widthsOf(blocks.get(block)!, axis);
    const key = widths.join();
    const mask = made.get(key) ?? maskFor(graph, widths);
    made.set(key, mask);
    const sequences = graph.op("Concat", [graph.op("Shape", [levels]), graph.integers([-1, widths[0]!])], {
      attributes: { axis: 0 },
    });
    const masked = graph.op("Mul", [graph.op("Reshape", [value, sequences]), mask]);
    return graph.op("Reshape", [masked, graph.op("Shape", [value])]);
  };
}

function widthsOf(block: BlockPlan, axis: Axis): readonly number[] {
  if (axis === "widths") return block.widths;
  if (block.kind !== "mamba") throw new TypeError(`Cannot mask the states of ${block.name}, of kind ${block.kind}`);
  return block.stateWidths;
}

/** Layers at full width whose outputs are masked: what `chunkedLinear` would leave out is zero instead. */
export function maskedLinear(linear: ElasticLinear, mask: Mask): ElasticLinear {
  const channels = (graph: GraphBuilder, name: string, made: ReturnType<ElasticLinear["toGatedChannels"]>) => {
    if (!("pieces" in made)) throw new TypeError("Cannot mask channels that are not in pieces");
    return { pieces: made.pieces.map((piece) => ({ ...piece, value: mask(graph, piece.value, name) })) };
  };
  return {
    ...linear,
    toHeads: (graph, layer) => mask(graph, linear.toHeads(graph, layer), layer.name),
    toAxes(graph, layer) {
      const made = linear.toAxes(graph, layer);
      if (!("each" in made)) throw new TypeError("Cannot mask axes that lie side by side");
      const [gateAndX, states, steps] = made.each;
      return {
        each: [mask(graph, gateAndX!, layer.name), mask(graph, states!, layer.name, "stateWidths"), steps!],
      };
    },
    toGatedChannels: (graph, layer) => channels(graph, layer.name, linear.toGatedChannels(graph, layer)),
    toRectifiedChannels: (graph, layer) => channels(graph, layer.name, linear.toRectifiedChannels(graph, layer)),
  };
}

/**
 * A Mamba block's core in which masked states stay masked: behind the convolution its bias would fill them again. Channels
 * may be filled, for z's mask closes their gate.
 *
 * @param length Tokens of a sequence.
 */
export function maskedStateSpace(config: ModelConfig, length: number, mask: Mask): StateSpaceCore {
  return {
    mix(graph, inputs, parameters, block, tap) {
      const { convolve, scan } = sequenceOperations(config, length);
      const core = wholeSequences(config, {
        convolve,
        scan: (graph, { b, ...others }) => scan(graph, { ...others, b: mask(graph, b, block.name, "stateWidths") }),
      });
      return core.mix(graph, inputs, parameters, block, tap);
    },
  };
}
