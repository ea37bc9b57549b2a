import { rotaryDimOf } from "../../models/description.ts";
import { floatWeights, type Weights } from "../../models/graph/weights.ts";
import { pairPlaces } from "../../models/layout.ts";
import type { ModelPlan } from "../../models/plan.ts";
import { ElementType, GraphBuilder, type Model, type Value } from "../../onnx/mod.ts";
import { gradients } from "../../onnx/gradient/gradients.ts";
import { type BatchShape, sequenceLogits } from "../training/loss.ts";
import { adaptedWeights, adapterParameters } from "./adapters.ts";
import { maskedLinear, maskedStateSpace, masksOf } from "./masks.ts";

/** What is trained: a sorted model of which every sequence of a batch runs at a level of its own. */
export interface MaskedModel {
  /** Of one level, uncut. */
  readonly plan: ModelPlan;
  /** The same blocks with the widths of every level. */
  readonly elastic: ModelPlan;
  /** Of each attention block, by its name, the original rotary pair at each place of every key/value head. */
  readonly pairs: ReadonlyMap<string, readonly (readonly number[])[]>;
  /** Of the adapters. */
  readonly rank: number;
}

/**
 * How far the adapted model is from the whole one without adapters, and which way the adapters would have to go.
 *
 * Inputs: `tokens` int64 `[sequences · length]`, `levels` int64 `[sequences]`, every weight by the name that `floatWeights`
 * gives it, and every adapter. Outputs: `loss` float32 `[]`, in nats per token, and `gradient.NAME` for every adapter.
 */
export function divergenceModel(model: MaskedModel, shape: BatchShape): Model {
  const graph = new GraphBuilder();
  const tokens = graph.input("tokens", ElementType.int64, [shape.sequences * shape.length]);
  const weights = sortedWeights(model);
  const whole = sequenceLogits(graph, model.plan, { shape, tokens, weights });
  const loss = divergence(graph, whole, maskedLogits(graph, model, { shape, tokens, weights }));
  graph.output("loss", loss, ElementType.float32, []);
  const parameters = adapterParameters(model.plan, model.rank);
  gradients(graph, loss, parameters.map(({ name }) => name as Value)).forEach((gradient, i) => {
    const { name, shape } = parameters[i]!;
    graph.output(`gradient.${name}`, gradient, ElementType.float32, shape);
  });
  return graph.build();
}

/**
 * The logits of the adapted model, each sequence at its level: `[sequences · length, V]`. Adds the input `levels`, see
 * `divergenceModel`.
 */
export function maskedLogits(
  graph: GraphBuilder,
  { plan, elastic, rank }: MaskedModel,
  { shape, tokens, weights }: { shape: BatchShape; tokens: Value; weights: Weights },
): Value {
  const mask = masksOf(elastic, graph.input("levels", ElementType.int64, [shape.sequences]));
  return sequenceLogits(graph, plan, {
    shape,
    tokens,
    weights: adaptedWeights(weights, plan, rank),
    change: ({ linear }) => ({
      linear: maskedLinear(linear, mask),
      stateSpaceCore: maskedStateSpace(plan.config, shape.length, mask),
    }),
  });
}

/** Float32 weights in sorted order, as inputs. */
export function sortedWeights({ plan: { config }, pairs }: MaskedModel): Weights {
  const head = { rotaryDim: rotaryDimOf(config), headDim: config.headDim };
  return {
    ...floatWeights(),
    pairs: (graph, { name }, shape) =>
      graph.integers(pairs.get(name)!.flatMap((pairs) => pairPlaces(head, pairs)), shape),
  };
}

/**
 * Mean over the rows of the divergence of one distribution from another, `Σ p · (log p − log q)`.
 *
 * @param wanted Logits of p, `[rows, V]`.
 * @param found Logits of q.
 */
export function divergence(graph: GraphBuilder, wanted: Value, found: Value): Value {
  const logarithms = (logits: Value) => graph.op("LogSoftmax", [logits], { attributes: { axis: -1 } });
  const p = graph.op("Softmax", [wanted], { attributes: { axis: -1 } });
  const differences = graph.op("Sub", [logarithms(wanted), logarithms(found)]);
  const perRow = graph.op("ReduceSum", [graph.op("Mul", [p, differences]), graph.integers([1])], {
    attributes: { keepdims: 0 },
  });
  return graph.op("ReduceMean", [perRow], { attributes: { keepdims: 0 } });
}
