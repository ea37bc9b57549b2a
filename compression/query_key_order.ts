import { type ModelConfig, rotaryDimOf } from "../models/description.ts";
import { type AttentionTensors, headPlaces } from "../models/layout.ts";
import { descendingOrder, randomOrder } from "./descending_order.ts";

type HeadShape = Pick<ModelConfig, "numAttentionHeads" | "numKeyValueHeads" | "headDim" | "rope">;

/** Sums of squares per component of every head, components at the places that `headPlaces` gives them. */
export interface HeadEnergies {
  /** `[H, K]` */
  readonly query: ArrayLike<number>;
  /** `[G, K]` */
  readonly key: ArrayLike<number>;
}

/** Orders of the query and key components of each key/value head. R components are turned by RoPE. */
export interface QueryKeyOrders {
  /** `[G][R / 2]`: the original pair at each place, most important first. */
  readonly pairs: number[][];
  /** `[G][R / 2]`: the score of every pair, by pair and not by place. */
  readonly pairScores: number[][];
  /** `[G][K − R]`: the original component at each place of those that are not turned. */
  readonly passed: number[][];
  /** `[G][K − R]`: their scores, from component R on. */
  readonly passedScores: number[][];
}

/**
 * Orders the rotary pairs, and the components without RoPE, of each key/value head by what they contribute to attention
 * logits (uniql.md §3.4).
 *
 * A component's score is `√(energy of k · Σ energy of q)`, over the query heads of the group; a pair's is the sum of its
 * two. (The reference implementation's form; the paper sums the roots instead.) The query heads of a group follow the
 * order of its key head, which leaves every logit as it is, as long as each pair keeps its frequency. Components that are
 * not turned need no partner: each is sorted by its own score.
 *
 * @param energies Over calibration tokens, after RoPE, biases included, in the original order.
 */
export function queryKeyOrder(energies: HeadEnergies, shape: HeadShape): QueryKeyOrders {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = shape;
  const rotaryDim = rotaryDimOf(shape);
  const places = headPlaces({ rotaryDim, headDim: K }, range(0, rotaryDim / 2), range(rotaryDim, K));
  const scores = Array.from({ length: G }, (_, group) => {
    const ofComponent = new Array<number>(K);
    places.forEach((component, place) => {
      let query = 0;
      for (let head = group * H / G; head < (group + 1) * H / G; head++) query += energies.query[head * K + place]!;
      ofComponent[component] = Math.sqrt(energies.key[group * K + place]! * query);
    });
    return ofComponent;
  });
  return ordersOf(scores, rotaryDim);
}

/**
 * The same order with squared lengths of weight rows for energies, as if inputs were white: a control.
 *
 * @param tensors As a checkpoint has them.
 */
export function queryKeyMagnitudeOrder({ query, key }: AttentionTensors, shape: HeadShape): QueryKeyOrders {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = shape;
  const squares = (weight: Float32Array, heads: number) => {
    const columns = weight.length / (heads * K);
    const energies = new Float64Array(heads * K);
    for (let i = 0; i < weight.length; i++) energies[Math.floor(i / columns)]! += weight[i]! ** 2;
    return energies;
  };
  const [queries, keys] = [squares(query, H), squares(key, G)];
  const scores = Array.from({ length: G }, (_, group) =>
    Array.from({ length: K }, (_, component) => {
      let sum = 0;
      for (let head = group * H / G; head < (group + 1) * H / G; head++) sum += queries[head * K + component]!;
      return Math.sqrt(keys[group * K + component]! * sum);
    }));
  return ordersOf(scores, rotaryDimOf(shape));
}

/** Shuffled pairs and components for each key/value head: a control. @param random Uniform in [0, 1). */
export function queryKeyRandomOrder(
  shape: Pick<HeadShape, "numKeyValueHeads" | "headDim" | "rope">,
  random: () => number,
): QueryKeyOrders {
  const rotaryDim = rotaryDimOf(shape);
  const heads = range(0, shape.numKeyValueHeads);
  const pairs = heads.map(() => randomOrder(rotaryDim / 2, random));
  const passed = heads.map(() => randomOrder(shape.headDim - rotaryDim, random).map((i) => rotaryDim + i));
  return { pairs, pairScores: [], passed, passedScores: [] };
}

/** @param scores `[G][K]`, by original component. */
function ordersOf(scores: readonly (readonly number[])[], rotaryDim: number): QueryKeyOrders {
  const pairScores = scores.map((head) =>
    range(0, rotaryDim / 2).map((pair) => head[pair]! + head[pair + rotaryDim / 2]!)
  );
  const passedScores = scores.map((head) => head.slice(rotaryDim));
  return {
    pairs: pairScores.map(descendingOrder),
    pairScores,
    passed: passedScores.map((head) => descendingOrder(head).map((i) => rotaryDim + i)),
    passedScores,
  };
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
