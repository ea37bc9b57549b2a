import { ElementType, GraphBuilder, type Model, type Value } from "../../onnx/mod.ts";
import { embeddingMatrix, headMatrix, headRotationMatrix, type ModelPlan } from "../plan.ts";
import { residualBlock } from "./block.ts";
import type { BlockContext } from "./block_context.ts";
import { type AddOperator, Chain, ownNode } from "./chain.ts";
import { cachedAttention, type LaneInputs } from "./cached_attention.ts";
import { cachedStateSpace } from "./cached_state_space.ts";
import { deviceEmbedding, stepPlan } from "./device_step.ts";
import { computedOnHost } from "./host_lanes.ts";
import { chunkedLinear } from "./elastic_linear.ts";
import { countRowsUpTo, gatesOf } from "./gates.ts";
import { halfWeights, toSingle } from "./half_weights.ts";
import { laneArrays } from "./lane_arrays.ts";
import { laneAttention } from "./lane_attention.ts";
import { rmsNorm } from "./norm.ts";
import { pooledAttention } from "./pooled_attention.ts";
import { pooledScan } from "./pooled_scan.ts";
import {
  cpuProvider,
  cudaProvider,
  ESPALIER_CUDA,
  prefixLinear,
  type Provider,
  wholeProduct,
} from "./prefix_linear.ts";
import { afterRotation, rotaryOf } from "./rotary.ts";
import { selectiveScan } from "./selective_scan.ts";
import { stockMixer } from "./stock_mixer.ts";
import type { Int4Weights, Weights } from "./weights.ts";

/**
 * What a graph is built of: the runtime's operators, these in half precision as it has them for CUDA devices, or our own for
 * the CPU or for a CUDA device.
 */
export type Operators = "stock" | "half" | "native" | "cuda";

/** What the graph calls the rows of the levels, see `decoderGraph`. */
export const ROWS_UP_TO = "rows_up_to";

/**
 * The whole elastic model as one graph, for any mixture of levels and of prefill and decode in a step.
 *
 * Inputs, beside the caches and states of every lane (`cacheNames`, `stateNames`):
 *
 * | name | type | |
 * |---|---|---|
 * | `tokens` | int64 `[rows]` | the rows of all lanes, lane after lane |
 * | `positions` | int64 `[rows]` | each row's place in its sequence; our own operators on the CPU tell it from the lanes |
 * | `lane_rows`, `lane_levels`, `lane_lengths` | `[lanes]` | see `LaneInputs` |
 * | `logit_rows` | int64 `[n]` | the rows whose logits are wanted |
 *
 * Output: `logits` float32 `[n, V]`, and the caches and states.
 *
 * Our own operators on the CPU take a lane's caches and states as one array, see `laneArrays`, and write it where it is:
 * it is no output. With several levels there is one more input, `rows_up_to` int64 `[levels]`, how many rows have a level
 * of at most this one: for the runtime to count them took it 25 µs.
 *
 * On a CUDA device there is also `likeliest` int64 `[n]`, the token of every row's greatest logit; the caches and states of
 * all lanes are pools, see `poolsOf`, and one more input, `lane_slots` int64 `[lanes]`, says where in them a lane's sequence
 * has its own.
 */
export function decoderGraph(
  plan: ModelPlan,
  weights: Weights,
  { lanes, operators = "stock", chained = true, capacity = 0, metadata = {} }: {
    lanes: number;
    operators?: Operators;
    /** Whether our own operators on the CPU are one node where they follow one another, see `Chain`. */
    chained?: boolean;
    /** Tokens that a sequence can hold; what our own operators need to be told. */
    capacity?: number;
    metadata?: Readonly<Record<string, string>>;
  },
): Model {
  const { config } = plan;
  const graph = new GraphBuilder();
  const tokens = graph.input("tokens", ElementType.int64, ["rows"]);
  const laneInputs = {
    count: lanes,
    rows: graph.input("lane_rows", ElementType.int64, [lanes]),
    levels: graph.input("lane_levels", ElementType.int64, [lanes]),
    lengths: graph.input("lane_lengths", ElementType.int32, [lanes]),
  };
  const logitRows = graph.input("logit_rows", ElementType.int64, ["logit_rows"]);

  const chain = operators === "native" && chained ? new Chain() : null;
  const parts = (): Parts => {
    switch (operators) {
      case "stock":
        return stockParts(graph, plan, weights, laneInputs);
      case "half":
        return halfParts(graph, plan, asInt4(weights), computedOnHost(graph, laneInputs, tokens));
      case "native":
        return nativeParts(graph, plan, asInt4(weights), { laneInputs, capacity, add: chain?.add ?? ownNode });
      case "cuda":
        return deviceParts(graph, plan, asInt4(weights), { laneInputs, capacity });
      default:
        return operators satisfies never;
    }
  };
  const { context, embed, head } = parts();
  let hidden = embed(tokens);
  for (const block of plan.layers.flat()) hidden = residualBlock(graph, hidden, block, context);
  if (chain !== null) hidden = chain.end(graph, hidden);
  const logits = head(graph.op("Gather", [hidden, logitRows]));
  const output = (value: Value) => graph.output("logits", value, ElementType.float32, ["logit_rows", config.vocabSize]);
  if (operators === "cuda") {
    const [copy, likeliest] = graph.ops("Likeliest", [logits], 2, { domain: ESPALIER_CUDA });
    output(copy!);
    graph.output("likeliest", likeliest!, ElementType.int64, ["logit_rows"]);
  } else output(logits);
  return graph.build(metadata);
}

/** What differs between the ways to run a model: its blocks' parts, and its two ends. */
interface Parts {
  readonly context: BlockContext;
  /** int64 `[rows]` → `[rows, D]` */
  embed(tokens: Value): Value;
  /** `[n, D]` → `[n, V]` */
  head(hidden: Value): Value;
}

/** Every lane has caches of its own: on the CPU. */
function stockParts(
  graph: GraphBuilder,
  plan: ModelPlan,
  weights: Weights,
  laneInputs: LaneInputs,
): Parts {
  const { config, levels } = plan;
  const positions = positionsInput(graph);
  const gates = gatesOf(graph, countRowsUpTo(graph, laneInputs.rows, laneInputs.levels, levels), levels);
  return {
    context: {
      config,
      weights,
      linear: chunkedLinear(weights, gates),
      core: afterRotation(rotaryOf(graph, config, positions), cachedAttention(graph, config, laneInputs)),
      stateSpace: stockMixer(config, weights, cachedStateSpace(graph, config, laneInputs)),
    },
    embed: (tokens) => weights.embed(graph, tokens, embeddingMatrix(config)),
    head: (hidden) => languageModelHead(graph, hidden, plan, weights),
  };
}

/** Every lane has one array for all of its caches: our own operators on the CPU. */
function nativeParts(
  graph: GraphBuilder,
  plan: ModelPlan,
  int4: Int4Weights,
  { laneInputs, capacity, add }: { laneInputs: LaneInputs; capacity: number; add: AddOperator },
): Parts {
  const { config, levels } = plan;
  const rowsUpTo = levels === 1 ? null : graph.input(ROWS_UP_TO, ElementType.int64, [levels]);
  const arrays = laneArrays(graph, plan, laneInputs.count);
  return {
    context: {
      config,
      weights: int4,
      linear: prefixLinear(cpuProvider(int4, add), rowsUpTo),
      core: laneAttention(graph, config, laneInputs, arrays, { capacity, add }),
      stateSpace: selectiveScan(config, int4, laneInputs, arrays, add),
    },
    embed: (tokens) => int4.embed(graph, tokens, embeddingMatrix(config)),
    head: (hidden) => prefixHead(graph, hidden, plan, int4, cpuProvider(int4)),
  };
}

/** As with stock operators on the CPU, activations and caches in half precision. */
function halfParts(
  graph: GraphBuilder,
  plan: ModelPlan,
  int4: Int4Weights,
  laneInputs: LaneInputs,
): Parts {
  const { config, levels } = plan;
  const positions = positionsInput(graph);
  if (plan.layers.flat().some(({ kind }) => kind === "mamba")) {
    throw new TypeError("Cannot run Mamba blocks on a CUDA device with stock operators: our own are needed there");
  }
  const weights = halfWeights(int4);
  const gates = gatesOf(graph, countRowsUpTo(graph, laneInputs.rows, laneInputs.levels, levels), levels);
  const { float16 } = ElementType;
  return {
    context: {
      config,
      weights,
      linear: chunkedLinear(weights, gates),
      core: afterRotation(
        rotaryOf(graph, config, positions, float16),
        cachedAttention(graph, config, laneInputs, float16),
      ),
      stateSpace: stockMixer(config, weights, cachedStateSpace(graph, config, laneInputs)),
    },
    embed: (tokens) => weights.embed(graph, tokens, embeddingMatrix(config)),
    head: (hidden) => toSingle(graph, languageModelHead(graph, hidden, plan, weights)),
  };
}

/** The caches of all lanes are pools, and the rows of a step a plan that every operator reads: on a CUDA device. */
function deviceParts(
  graph: GraphBuilder,
  plan: ModelPlan,
  weights: Int4Weights,
  { laneInputs, capacity }: { laneInputs: LaneInputs; capacity: number },
): Parts {
  const { config, levels } = plan;
  const positions = positionsInput(graph);
  const { lanes, rowsUpTo } = stepPlan(graph, laneInputs, levels);
  const provider = cudaProvider(weights);
  return {
    context: {
      config,
      weights,
      linear: prefixLinear(provider, levels === 1 ? null : rowsUpTo),
      core: pooledAttention(graph, config, { lanes, positions, capacity }),
      stateSpace: pooledScan(config, weights, lanes),
    },
    embed: (tokens) => deviceEmbedding(graph, weights, tokens, embeddingMatrix(config)),
    head: (hidden) => prefixHead(graph, hidden, plan, weights, provider),
  };
}

/** Final norm and output head with our own operator, which norms: `[rows, D]` → `[rows, V]`. */
function prefixHead(graph: GraphBuilder, hidden: Value, plan: ModelPlan, weights: Weights, provider: Provider): Value {
  const { config, headRotation } = plan;
  const norm = { weight: weights.vector(graph, "final_norm", config.hiddenSize), epsilon: config.rmsNormEps };
  return headRotation
    ? wholeProduct(graph, {
      provider,
      x: wholeProduct(graph, { provider, x: hidden, matrix: headRotationMatrix(config), norm }),
      matrix: headMatrix(config),
    })
    : wholeProduct(graph, { provider, x: hidden, matrix: headMatrix(config), norm });
}

/** int64 `[rows]`: each row's place in its sequence. */
function positionsInput(graph: GraphBuilder): Value {
  return graph.input("positions", ElementType.int64, ["rows"]);
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
