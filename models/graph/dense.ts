import { ElementType, GraphBuilder, type Model, type Value } from "../../onnx/mod.ts";
import type { BlockPlan, ModelPlan } from "../plan.ts";
import { residualBlock } from "./block.ts";
import { causalAttention } from "./causal_attention.ts";
import { causalStateSpace } from "./causal_state_space.ts";
import { languageModelHead } from "./decoder.ts";
import { chunkedLinear } from "./elastic_linear.ts";
import { ungated } from "./gates.ts";
import { afterRotation, type Rotary, rotaryOf } from "./rotary.ts";
import { stockMixer } from "./stock_mixer.ts";
import { floatWeights } from "./weights.ts";

/**
 * One residual block in float32 over a whole sequence, its weights as inputs.
 *
 * Inputs: `hidden` `[rows, D]`, the block's tensors by their stored names, and for attention `positions` int64
 * `[rows]`. Output: `output` `[rows, D]` and whatever `taps` adds.
 *
 * @param taps Adds outputs from the activations that it is shown; the last is the block's `output`.
 * @param withOutput Without it the taps' outputs are all there is, and what only the block's own needs is not computed.
 */
export function denseBlockGraph(
  plan: ModelPlan,
  block: BlockPlan,
  { taps, withOutput = true }: {
    taps?: (graph: GraphBuilder, name: string, value: Value) => void;
    withOutput?: boolean;
  } = {},
): Model {
  const graph = new GraphBuilder();
  const hidden = graph.input("hidden", ElementType.float32, ["rows", plan.config.hiddenSize]);
  const rotary: Rotary = {
    rotate: (graph, packed, pairs, width) =>
      rotaryOf(graph, plan.config, graph.input("positions", ElementType.int64, ["rows"])).rotate(
        graph,
        packed,
        pairs,
        width,
      ),
  };
  const weights = floatWeights();
  const output = residualBlock(graph, hidden, block, {
    config: plan.config,
    weights,
    linear: chunkedLinear(weights, ungated),
    core: afterRotation(rotary, causalAttention(plan.config)),
    stateSpace: stockMixer(plan.config, weights, causalStateSpace(plan.config)),
    ...(taps && { tap: (name, value) => taps(graph, name, value) }),
  });
  taps?.(graph, `${block.name}.output`, output);
  if (withOutput) graph.output("output", output, ElementType.float32);
  return graph.build();
}

/** Final norm and head in float32: `hidden` `[rows, D]` → `logits` `[rows, V]`. */
export function denseHeadGraph(plan: ModelPlan): Model {
  const graph = new GraphBuilder();
  const hidden = graph.input("hidden", ElementType.float32, ["rows", plan.config.hiddenSize]);
  graph.output("logits", languageModelHead(graph, hidden, plan, floatWeights()), ElementType.float32);
  return graph.build();
}
