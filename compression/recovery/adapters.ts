import type { LinearAlgebra } from "../../kernels/matrix.ts";
import { matrix } from "../../kernels/matrix.ts";
import type { BlockWeights } from "../../models/dense_block.ts";
import type { ModelConfig } from "../../models/description.ts";
import type { Floats } from "../../models/floats.ts";
import type { Weights } from "../../models/graph/weights.ts";
import { blockMatrices, type BlockPlan, type Matrix, type ModelPlan } from "../../models/plan.ts";
import { ElementType } from "../../onnx/mod.ts";
import { methodOf } from "../blocks/mod.ts";
import type { Parameter, ParameterLayout } from "../training/parameters.ts";

/**
 * How much of `B·A` is added to a matrix, `α / rank` of LoRA with α twice the rank (uniql.md §5).
 *
 * @see LoRA, https://arxiv.org/abs/2106.09685
 */
const SCALE = 2;

/** The two factors of what is learnt beside one matrix: A `[rank, inFeatures]` and B `[outFeatures, rank]`. */
function factorsOf({ name, outFeatures, inFeatures }: Matrix, rank: number): { a: Parameter; b: Parameter } {
  return {
    a: { name: `${name}.a`, shape: [rank, inFeatures], decays: false },
    b: { name: `${name}.b`, shape: [outFeatures, rank], decays: false },
  };
}

/** What is adapted: the projections of every block, not its vectors, the embedding or the head. @param plan Uncut. */
export function adaptedMatrices({ config, layers }: ModelPlan): Matrix[] {
  return layers.flat().flatMap((block) => blockMatrices(config, block).map(({ matrix }) => matrix));
}

/** Every parameter of the adapters of a model. @param plan Of one level, uncut. */
export function adapterParameters(plan: ModelPlan, rank: number): Parameter[] {
  return adaptedMatrices(plan).flatMap((matrix) => Object.values(factorsOf(matrix, rank)));
}

/**
 * Adapters that change nothing yet: B is zero, A uniform up to `1/√inFeatures`.
 *
 * @param random Uniform in [0, 1).
 */
export function initialAdapters(layout: ParameterLayout, random: () => number): Floats {
  const adapters = new Float32Array(layout.length);
  for (const { name, shape } of layout.places.values()) {
    if (!name.endsWith(".a")) continue;
    const bound = 1 / Math.sqrt(shape[1]!);
    const view = layout.view(adapters, name);
    for (let i = 0; i < view.length; i++) view[i] = bound * (2 * random() - 1);
  }
  return adapters;
}

/** `x · (W + s·B·A)ᵀ` in place of `x · Wᵀ`, the factors as inputs of the graph, by their names. */
export function adaptedWeights(weights: Weights, plan: ModelPlan, rank: number): Weights {
  const adapted = new Set(adaptedMatrices(plan).map(({ name }) => name));
  return {
    ...weights,
    product(graph, x, matrix) {
      const product = weights.product(graph, x, matrix);
      if (!adapted.has(matrix.name)) return product;
      const { a, b } = factorsOf(matrix, rank);
      const [first, second] = [a, b].map(({ name, shape }) => graph.input(name, ElementType.float32, shape));
      const transposed = { attributes: { transB: 1 } };
      const inner = graph.op("Mul", [graph.op("Gemm", [x, first!], transposed), graph.floats(SCALE)]);
      return graph.op("Add", [product, graph.op("Gemm", [inner, second!], transposed)]);
    },
  };
}

/** What was learnt of a whole model. */
export interface Adapters {
  readonly layout: ParameterLayout;
  /** Flat, as `layout` says. */
  readonly values: Floats;
  readonly rank: number;
}

/** A block's packed weights with what was learnt beside them: `W + s·B·A` for each projection. */
export async function mergeAdapters(
  algebra: LinearAlgebra,
  weights: BlockWeights,
  { config, block, adapters: { layout, values, rank } }: { config: ModelConfig; block: BlockPlan; adapters: Adapters },
): Promise<BlockWeights> {
  const packed = weights as unknown as Readonly<Record<string, Floats>>;
  const merged: Record<string, Floats> = {};
  for (const { weight, stored } of methodOf(block.kind).projections) {
    const whole = stored(config, block)[0]!;
    const { outFeatures, inFeatures } = whole;
    const { a, b } = factorsOf(whole, rank);
    const sum = merged[weight] = packed[weight]!.slice();
    await algebra.multiply(
      matrix(layout.view(values, b.name), outFeatures, rank),
      matrix(layout.view(values, a.name), rank, inFeatures),
      matrix(sum, outFeatures, inFeatures),
      { alpha: SCALE, beta: 1 },
    );
  }
  return { ...weights, ...merged };
}
