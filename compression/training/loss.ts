import { languageModelHead } from "../../models/graph/decoder.ts";
import { residualBlock } from "../../models/graph/block.ts";
import { chunkedLinear, type ElasticLinear } from "../../models/graph/elastic_linear.ts";
import { ungated } from "../../models/graph/gates.ts";
import { afterRotation, rotaryOf } from "../../models/graph/rotary.ts";
import { softmaxAttention } from "../../models/graph/softmax_attention.ts";
import type { StateSpaceCore } from "../../models/graph/state_space.ts";
import { stockMixer } from "../../models/graph/stock_mixer.ts";
import { floatWeights, type Weights } from "../../models/graph/weights.ts";
import { rotaryDimOf } from "../../models/description.ts";
import { originalPairs, pairPlaces } from "../../models/layout.ts";
import { embeddingMatrix, type ModelPlan } from "../../models/plan.ts";
import { ElementType, GraphBuilder, type Model, type Value } from "../../onnx/mod.ts";
import { gradients } from "../../onnx/gradient/gradients.ts";
import { trainedParameters } from "./parameters.ts";
import { trainableStateSpace } from "./sequence_state_space.ts";

/** The rows of one run: whole sequences, one after the other. Fixed, so that the runtime folds shapes away. */
export interface BatchShape {
  readonly sequences: number;
  /** Tokens of each sequence. */
  readonly length: number;
}

/**
 * The mean next-token loss of a batch.
 *
 * Inputs: `tokens` and `targets` int64 `[sequences · length]`, and every parameter by its name. Output: `loss` float32
 * `[]`, in nats per token.
 */
export function evaluationModel(plan: ModelPlan, shape: BatchShape): Model {
  return lossGraph(plan, shape).graph.build();
}

/** As `evaluationModel`, with an output `gradient.NAME` for every parameter, in its shape. */
export function trainingModel(plan: ModelPlan, shape: BatchShape): Model {
  const { graph, loss } = lossGraph(plan, shape);
  const parameters = trainedParameters(plan);
  gradients(graph, loss, parameters.map(({ name }) => name as Value)).forEach((gradient, i) => {
    const { name, shape } = parameters[i]!;
    graph.output(`gradient.${name}`, gradient, ElementType.float32, shape);
  });
  return graph.build();
}

function lossGraph(plan: ModelPlan, shape: BatchShape): { graph: GraphBuilder; loss: Value } {
  const graph = new GraphBuilder();
  const logits = logitsOf(graph, plan, shape);
  const targets = graph.input("targets", ElementType.int64, [shape.sequences * shape.length]);
  const loss = crossEntropy(graph, logits, targets);
  graph.output("loss", loss, ElementType.float32, []);
  return { graph, loss };
}

/** The logits `[sequences · length, V]` that the loss is of. Input: `tokens`, see `evaluationModel`. */
export function logitsOf(graph: GraphBuilder, plan: ModelPlan, shape: BatchShape): Value {
  const { config } = plan;
  const head = { rotaryDim: rotaryDimOf(config), headDim: config.headDim };
  const pairs = originalPairs(config).flatMap((pairs) => pairPlaces(head, pairs));
  return sequenceLogits(graph, plan, {
    shape,
    tokens: graph.input("tokens", ElementType.int64, [shape.sequences * shape.length]),
    weights: { ...floatWeights(), pairs: (graph, _block, shape) => graph.integers(pairs, shape) },
  });
}

/** The parts of a model that a training may change. */
export interface SequenceParts {
  readonly linear: ElasticLinear;
  readonly stateSpaceCore: StateSpaceCore;
}

/**
 * The logits `[sequences · length, V]` of whole sequences, out of operators that have gradients.
 *
 * @param tokens int64 `[sequences · length]`
 * @param change What stands in the place of some of a model's parts.
 */
export function sequenceLogits(
  graph: GraphBuilder,
  plan: ModelPlan,
  { shape: { sequences, length }, tokens, weights, change = (parts) => parts }: {
    shape: BatchShape;
    tokens: Value;
    weights: Weights;
    change?: (parts: SequenceParts) => SequenceParts;
  },
): Value {
  const { config } = plan;
  const positions = graph.integers(Array.from({ length: sequences * length }, (_, row) => row % length));
  const { linear, stateSpaceCore } = change({
    linear: chunkedLinear(weights, ungated),
    stateSpaceCore: trainableStateSpace(config, length),
  });
  const context = {
    config,
    weights,
    linear,
    core: afterRotation(rotaryOf(graph, config, positions), softmaxAttention(graph, config, length)),
    stateSpace: stockMixer(config, weights, stateSpaceCore),
  };
  let hidden = weights.embed(graph, tokens, embeddingMatrix(config));
  for (const block of plan.layers.flat()) hidden = residualBlock(graph, hidden, block, context);
  return languageModelHead(graph, hidden, plan, weights);
}

/**
 * Mean over the rows of −log softmax(logits)[target].
 *
 * @param logits `[rows, V]`
 * @param targets int64 `[rows]`
 */
export function crossEntropy(graph: GraphBuilder, logits: Value, targets: Value): Value {
  const logProbabilities = graph.op("LogSoftmax", [logits], { attributes: { axis: -1 } });
  const column = graph.op("Unsqueeze", [targets, graph.integers([1])]);
  const ofTargets = graph.op("GatherElements", [logProbabilities, column], { attributes: { axis: 1 } });
  return graph.op("Neg", [graph.op("ReduceMean", [ofTargets], { attributes: { keepdims: 0 } })]);
}
