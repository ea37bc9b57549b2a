import { ElementType, GraphBuilder, type Model, type Value } from "../../onnx/mod.ts";
import { embeddingMatrix, headMatrix, headRotationMatrix, type ModelPlan } from "../plan.ts";
import { residualBlock } from "./block.ts";
import type { BlockContext } from "./block_context.ts";
import { cachedAttention } from "./cached_attention.ts";
import { cachedStateSpace } from "./cached_state_space.ts";
import { chunkedLinear } from "./elastic_linear.ts";
import { countRowsUpTo, gatesOf } from "./gates.ts";
import { laneAttention } from "./lane_attention.ts";
import { rmsNorm } from "./norm.ts";
import { prefixLinear, prefixWeights } from "./prefix_linear.ts";
import { afterRotation, rotaryOf } from "./rotary.ts";
import { selectiveScan } from "./selective_scan.ts";
import { stockMixer } from "./stock_mixer.ts";
import type { Int4Weights, Weights } from "./weights.ts";

/**
 * The whole elastic model as one graph, for any mixture of levels and of prefill and decode in a step.
 *
 * Inputs, beside the caches and states of every lane (`cacheNames`, `stateNames`):
 *
 * | name | type | |
 * |---|---|---|
 * | `tokens` | int64 `[rows]` | the rows of all lanes, lane after lane |
 * | `positions` | int64 `[rows]` | each row's place in its sequence |
 * | `lane_rows`, `lane_levels`, `lane_lengths` | `[lanes]` | see `LaneInputs` |
 * | `logit_rows` | int64 `[n]` | the rows whose logits are wanted |
 *
 * Output: `logits` float32 `[n, V]`, and the caches and states.
 */
export function decoderGraph(
  plan: ModelPlan,
  weights: Weights,
  { lanes, native = false, metadata = {} }: {
    lanes: number;
    /** Our own operators instead of stock ones. */
    native?: boolean;
    metadata?: Readonly<Record<string, string>>;
  },
): Model {
  const { config, levels } = plan;
  const graph = new GraphBuilder();
  const tokens = graph.input("tokens", ElementType.int64, ["rows"]);
  const positions = graph.input("positions", ElementType.int64, ["rows"]);
  const laneInputs = {
    count: lanes,
    rows: graph.input("lane_rows", ElementType.int64, [lanes]),
    levels: graph.input("lane_levels", ElementType.int64, [lanes]),
    lengths: graph.input("lane_lengths", ElementType.int32, [lanes]),
  };
  const logitRows = graph.input("logit_rows", ElementType.int64, ["logit_rows"]);

  const rowsUpTo = countRowsUpTo(graph, laneInputs.rows, laneInputs.levels, levels);
  const gates = gatesOf(graph, rowsUpTo, levels);
  const int4 = native ? asInt4(weights) : null;
  const ours = int4 === null ? weights : prefixWeights(int4);
  const context: BlockContext = {
    config,
    weights: ours,
    linear: int4 === null ? chunkedLinear(weights, gates) : prefixLinear(int4, levels === 1 ? null : rowsUpTo),
    core: int4 === null
      ? afterRotation(rotaryOf(graph, config, positions), cachedAttention(graph, config, laneInputs))
      : laneAttention(graph, config, laneInputs, positions),
    stateSpace: int4 === null
      ? stockMixer(config, weights, cachedStateSpace(graph, config, laneInputs))
      : selectiveScan(config, weights, laneInputs),
  };
  let hidden = ours.embed(graph, tokens, embeddingMatrix(config));
  for (const block of plan.layers.flat()) hidden = residualBlock(graph, hidden, block, context);
  graph.output(
    "logits",
    languageModelHead(graph, graph.op("Gather", [hidden, logitRows]), plan, ours),
    ElementType.float32,
    ["logit_rows", config.vocabSize],
  );
  return graph.build(metadata);
}

function asInt4(weights: Weights): Int4Weights {
  if (!("stored" in weights)) throw new TypeError("Cannot use our own operators: they take int4 weights");
  return weights as Int4Weights;
}

/** Final norm and output head: `[rows, D]` → `[rows, V]`. */
export function languageModelHead(graph: GraphBuilder, hidden: Value, plan: ModelPlan, weights: Weights): Value {
  const { config } = plan;
  const normed = rmsNorm(graph, hidden, weights.vector(graph, "final_norm", config.hiddenSize), config.rmsNormEps);
  const rotated = plan.headRotation ? weights.product(graph, normed, headRotationMatrix(config)) : normed;
  return weights.product(graph, rotated, headMatrix(config));
}
