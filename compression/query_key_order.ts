import type { ModelConfig } from "../models/description.ts";
import type { AttentionTensors } from "../models/layout.ts";
import { descendingOrder, randomOrder } from "./importance_order.ts";

type HeadShape = Pick<ModelConfig, "numAttentionHeads" | "numKeyValueHeads" | "headDim">;

/** Sums of squares per component of every head, **the members of a rotary pair side by side**. */
export interface HeadEnergies {
  /** `[H, K]` */
  readonly query: ArrayLike<number>;
  /** `[G, K]` */
  readonly key: ArrayLike<number>;
}

export interface PairOrders {
  /** For each key/value head the original pair at each place, most important first. */
  readonly pairs: number[][];
  /** For each key/value head the score of every pair, by pair and not by place. */
  readonly scores: number[][];
}

/**
 * Orders the rotary pairs of each key/value head by what they contribute to attention logits (uniql.md §3.4).
 *
 * A component's score is `√(energy of k · Σ energy of q)`, over the query heads of the group; a pair's is the sum of its
 * two. (The reference implementation's form; the paper sums the roots instead.) The query heads of a group follow the
 * order of its key head, which leaves every logit as it is, as long as each pair keeps its frequency.
 *
 * @param energies Over calibration tokens, after RoPE, biases included.
 */
export function queryKeyOrder(energies: HeadEnergies, shape: HeadShape): PairOrders {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = shape;
  const scores = Array.from({ length: G }, (_, group) => {
    const ofPair = new Array<number>(K / 2).fill(0);
    for (let component = 0; component < K; component++) {
      let query = 0;
      for (let head = group * H / G; head < (group + 1) * H / G; head++) query += energies.query[head * K + component]!;
      ofPair[component >> 1]! += Math.sqrt(energies.key[group * K + component]! * query);
    }
    return ofPair;
  });
  return { pairs: scores.map(descendingOrder), scores };
}

/**
 * The same order with squared lengths of weight rows for energies, as if inputs were white: a control.
 *
 * @param tensors As a checkpoint has them: the members of pair `i` are components `i` and `i + K/2`.
 */
export function queryKeyMagnitudeOrder({ query, key }: AttentionTensors, shape: HeadShape): PairOrders {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = shape;
  const squares = (weight: Float32Array, heads: number) => {
    const columns = weight.length / (heads * K);
    const energies = new Float64Array(heads * K);
    for (let row = 0; row < heads * K; row++) {
      const component = row % K;
      const paired = row - component + (component % (K / 2)) * 2 + (component < K / 2 ? 0 : 1);
      for (let i = row * columns; i < (row + 1) * columns; i++) energies[paired]! += weight[i]! ** 2;
    }
    return energies;
  };
  return queryKeyOrder({ query: squares(query, H), key: squares(key, G) }, shape);
}

/** Shuffled pairs for each key/value head: a control. @param random Uniform in [0, 1). */
export function queryKeyRandomOrder(
  { numKeyValueHeads, headDim }: Omit<HeadShape, "numAttentionHeads">,
  random: () => number,
): number[][] {
  return Array.from({ length: numKeyValueHeads }, () => randomOrder(headDim / 2, random));
}
