import type { Accumulator, Statistic } from "../models/dense_block.ts";
import type { ModelConfig } from "../models/description.ts";
import type { BlockPlan } from "../models/plan.ts";
import { ElementType, type GraphBuilder, type Value } from "../onnx/mod.ts";
import { methodOf } from "./blocks/mod.ts";
import { crossGramOf, gramOf, type Rows } from "./gram.ts";

/**
 * What the projections that read the residual stream are quantized by: sums over tokens of what they read, X, and of
 * what the unmodified network's would, X′, which is the session's `reference`.
 *
 * | name | shape | |
 * |---|---|---|
 * | `….gram` | `[D, D]` | `XᵀX` |
 * | `….drift` | `[D, D]` | `(X′ − X)ᵀX` |
 *
 * @param plan Of the dense model.
 */
export function readingStatistics(config: ModelConfig, plan: BlockPlan): Statistic {
  const { hiddenSize } = config;
  const widths = inputWidths(config, plan, "rows");
  return (graph, activation, value) => {
    const width = widths.get(activation);
    if (width === undefined) return [];
    const drift = graph.op("Sub", [referenceOf(graph, config), value]);
    return sums(activation, graph, { value, width }, { value: drift, width: hiddenSize });
  };
}

/**
 * The same for the projection that writes the residual stream: X is what it reads, Y what then leaves the block, and Y′
 * what leaves the unmodified network's, the session's `reference`.
 *
 * Every token counts as the next norm will see it, divided by the root mean square of its Y′, or of its Y where that is
 * greater. Else the first token of a window would be all that the sums know: in some models a few of its activations are
 * thousands of times the others' (massive activations, https://arxiv.org/abs/2402.17762). And one that has them in the
 * quantized network alone would take them from all: so it went in layer 11 of SmolLM2-135M once, for one of 32,768 tokens,
 * and perplexity rose from 20.9 to 25.3.
 *
 * | name | shape | |
 * |---|---|---|
 * | `….gram` | `[K, K]` | `XᵀX` |
 * | `….drift` | `[D, K]` | `(Y′ − Y)ᵀX` |
 */
export function writingStatistics(config: ModelConfig, plan: BlockPlan): Statistic {
  const { hiddenSize, rmsNormEps } = config;
  const widths = inputWidths(config, plan, "columns");
  const read = new Map<string, Value>();
  return (graph, activation, value) => {
    if (widths.has(activation)) read.set(activation, value);
    if (activation !== "output") return [];
    const reference = referenceOf(graph, config);
    const meanSquare = (rows: Value) =>
      graph.op("ReduceMean", [graph.op("Mul", [rows, rows]), graph.integers([1])], { attributes: { keepdims: 1 } });
    const greater = graph.op("Max", [meanSquare(reference), meanSquare(value)]);
    const size = graph.op("Sqrt", [graph.op("Add", [greater, graph.floats(rmsNormEps)])]);
    const drift = graph.op("Div", [graph.op("Sub", [reference, value]), size]);
    return [...widths].flatMap(([input, width]) =>
      sums(input, graph, { value: graph.op("Div", [read.get(input)!, size]), width }, {
        value: drift,
        width: hiddenSize,
      })
    );
  };
}

/** Widths of the activations that the projections read whose rows or columns are cut, by name. */
function inputWidths(config: ModelConfig, plan: BlockPlan, cut: "rows" | "columns"): Map<string, number> {
  const projections = methodOf(plan.kind).projections.filter((projection) => projection.cut === cut);
  return new Map(projections.map(({ input, stored }) => [input, stored(config, plan)[0]!.inFeatures]));
}

function referenceOf(graph: GraphBuilder, { hiddenSize }: ModelConfig): Value {
  return graph.input("reference", ElementType.float32, ["rows", hiddenSize]);
}

function sums(name: string, graph: GraphBuilder, x: Rows, drift: Rows): Accumulator[] {
  return [gramOf(`${name}.gram`, graph, x), crossGramOf(`${name}.drift`, graph, drift, x)];
}
