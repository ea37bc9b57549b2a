import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import type { LinearAlgebra } from "../kernels/matrix.ts";
import type { BlockTensors } from "../models/block_tensors.ts";
import type { ModelConfig } from "../models/description.ts";
import { randomOrder } from "./importance_order.ts";
import type { BlockOrder } from "./journal.ts";
import { mlpMagnitudeOrder, ridgeLeverageOrder } from "./ridge_leverage.ts";
import { queryKeyMagnitudeOrder, queryKeyOrder, queryKeyRandomOrder } from "./query_key_order.ts";
import type { Recipe } from "./recipe.ts";
import {
  changeValueBases,
  permuteValues,
  valueMagnitudeOrder,
  valueOutputBases,
  valueRandomOrder,
} from "./value_output_rotation.ts";

export interface OrderOptions {
  readonly config: ModelConfig;
  readonly order: Recipe["order"];
  /** λ in the scale of the Gram matrices. */
  readonly ridge: number;
  /** Of this block's random order. */
  readonly seed: number;
}

/**
 * The order of a block's prunable axis.
 *
 * @param statistics What `orderStatistics` added up.
 */
export async function orderBlock(
  algebra: LinearAlgebra,
  block: BlockTensors,
  statistics: ReadonlyMap<string, Float32Array>,
  { config, order, ridge, seed }: OrderOptions,
): Promise<BlockOrder> {
  const random = randomNumbers(seed);
  switch (block.kind) {
    case "attention": {
      const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = config;
      const energies = statistics.get("energies")!;
      const grams = statistics.get("value_gram")!;
      const { pairs, scores } = {
        importance: () => queryKeyOrder({ query: energies.subarray(0, H * K), key: energies.subarray(H * K) }, config),
        magnitude: () => queryKeyMagnitudeOrder(block.tensors, config),
        random: () => ({ pairs: queryKeyRandomOrder(config, random), scores: [] }),
      }[order]();
      const bases = order === "importance"
        ? await valueOutputBases(algebra, block.tensors, Float32Array.from(grams), config)
        : [];
      return {
        kind: "attention",
        pairs,
        pairScores: scores,
        valueGrams: Array.from({ length: G }, (_, g) => [...grams.subarray(g * K * K, (g + 1) * K * K)]),
        valueEnergies: bases.map(({ energies }) => [...energies]),
      };
    }
    case "gatedMlp": {
      const { intermediateSize } = config;
      const scored = await {
        importance: () =>
          ridgeLeverageOrder(algebra, {
            gram: Float32Array.from(statistics.get("hidden_gram")!),
            size: intermediateSize,
            lambda: ridge,
          }),
        magnitude: () => Promise.resolve(mlpMagnitudeOrder(block.tensors, intermediateSize)),
        random: () => Promise.resolve({ order: randomOrder(intermediateSize, random), scores: [] }),
      }[order]();
      return { kind: "gatedMlp", channels: scored.order, channelScores: [...scored.scores] };
    }
    default:
      return block satisfies never;
  }
}

/**
 * Puts an attention block's value components in order: by rotation to the basis that carries most in its first
 * components, or, for a control, by permutation. Other blocks stay as they are.
 */
export async function orderValues(
  algebra: LinearAlgebra,
  block: BlockTensors,
  known: BlockOrder,
  { config, order, seed }: Omit<OrderOptions, "ridge">,
): Promise<BlockTensors> {
  if (block.kind !== "attention" || known.kind !== "attention") return block;
  const { tensors } = block;
  switch (order) {
    case "importance": {
      const gram = Float32Array.from(known.valueGrams.flat());
      const bases = await valueOutputBases(algebra, tensors, gram, config);
      return { ...block, tensors: await changeValueBases(algebra, tensors, bases, config) };
    }
    case "magnitude":
      return { ...block, tensors: permuteValues(tensors, valueMagnitudeOrder(tensors, config), config) };
    case "random": {
      // Another stream than the pairs' order.
      const orders = valueRandomOrder(config, randomNumbers(~seed));
      return { ...block, tensors: permuteValues(tensors, orders, config) };
    }
    default:
      return order satisfies never;
  }
}

/** Uniform numbers in [0, 1). */
export function randomNumbers(seed: number): () => number {
  const generator = xoroshiro128plus(seed);
  return () => uniformFloat64(generator);
}
