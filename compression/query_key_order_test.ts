import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { matrix } from "../kernels/matrix.ts";
import { type AttentionTensors, packAttention } from "../models/layout.ts";
import { queryKeyMagnitudeOrder, queryKeyOrder, queryKeyRandomOrder } from "./query_key_order.ts";

const rope = { theta: 100, scaling: null };
const shape = { hiddenSize: 10, numAttentionHeads: 4, numKeyValueHeads: 2, headDim: 8, rope };
const { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = shape;

function random(length: number, seed: number): Float32Array<ArrayBuffer> {
  const generator = xoroshiro128plus(seed);
  return Float32Array.from({ length }, () => 2 * uniformFloat64(generator) - 1);
}

function attention(): AttentionTensors {
  return {
    query: random(H * K * D, 1),
    key: random(G * K * D, 2),
    value: random(G * K * D, 3),
    output: random(D * H * K, 4),
    queryBias: random(H * K, 5),
    keyBias: random(G * K, 6),
    valueBias: new Float32Array(G * K),
  };
}

/** The logit of a query at one position and a key at another, from packed rows, each pair at its own frequency. */
function logit(
  { qkv, qkvBias }: { qkv: Float32Array; qkvBias: Float32Array | null },
  pairs: readonly (readonly number[])[],
  [head, x, at]: [head: number, x: Float32Array, at: number],
  [y, position]: [y: Float32Array, position: number],
): number {
  const group = Math.floor(head / (H / G));
  const rotated = (row: number, x: Float32Array, position: number) => {
    const component = (i: number) =>
      x.reduce((sum, value, j) => sum + value * qkv[(row + i) * D + j]!, qkvBias![row + i]!);
    return pairs[group]!.flatMap((pair, place) => {
      const angle = position * 100 ** (-2 * pair / K);
      const [a, b] = [component(2 * place), component(2 * place + 1)];
      return [a * Math.cos(angle) - b * Math.sin(angle), b * Math.cos(angle) + a * Math.sin(angle)];
    });
  };
  const key = rotated((H + group) * K, y, position);
  return rotated(head * K, x, at).reduce((sum, value, i) => sum + value * key[i]!, 0);
}

describe("queryKeyOrder()", () => {
  it("sorts pairs by the root of key energy times the group's query energy, summed over the pair", () => {
    const key = [4, 0, /**/ 1, 1, /**/ 9, 9, /**/ 0, 16];
    const queries = [1, 8, /**/ 0, 4, /**/ 1, 1, /**/ 8, 1];
    const others = [8, 1, /**/ 9, 5, /**/ 0, 3, /**/ 8, 0];
    const small = { numAttentionHeads: 2, numKeyValueHeads: 1, headDim: 8, rope };
    const { pairs, pairScores, passed } = queryKeyOrder({ query: [...queries, ...others], key }, small);
    deepEqual(pairScores, [[6, 6, 9, 4]]);
    deepEqual(pairs, [[2, 0, 1, 3]]);
    deepEqual(passed, [[]]);
  });

  it("sorts pairs and components without RoPE apart where it turns half of a head", () => {
    // Places of pairs and of what passes take turns, two by two; components 4 to 7 pass.
    const key = [1, 4, /**/ 9, 1, /**/ 4, 16, /**/ 0, 4];
    const half = { numAttentionHeads: 1, numKeyValueHeads: 1, headDim: 8, rope: { ...rope, rotaryDim: 4 } };
    const { pairs, pairScores, passed, passedScores } = queryKeyOrder({ query: key, key }, half);
    deepEqual(pairScores, [[5, 20]]);
    deepEqual(pairs, [[1, 0]]);
    deepEqual(passedScores, [[9, 1, 0, 4]]);
    deepEqual(passed, [[4, 7, 5, 6]]);
  });

  it("sorts every component by itself where there is no RoPE", () => {
    const key = [1, 4, 9, 2];
    const none = { numAttentionHeads: 1, numKeyValueHeads: 1, headDim: 4, rope: { ...rope, rotaryDim: 0 } };
    const { pairs, passed, passedScores } = queryKeyOrder({ query: key, key }, none);
    deepEqual(pairs, [[]]);
    deepEqual(passedScores, [key]);
    deepEqual(passed, [[2, 1, 3, 0]]);
  });

  it("scores as the columns of matrix square roots do", async () => {
    // ‖(C^½)[:, m]‖ = √C[m, m]: the roots of the paper are not needed.
    const algebra = openLinearAlgebra({ backend: "plain" });
    const gram = new Float64Array(K * K);
    await algebra.gram(matrix(Float64Array.from(random(20 * K, 7)), 20, K), matrix(gram, K, K));
    const { values, vectors } = await algebra.symmetricEigen(gram, K);
    for (let m = 0; m < K; m++) {
      let square = 0;
      for (let i = 0; i < K; i++) {
        let entry = 0;
        for (let k = 0; k < K; k++) entry += vectors[i * K + k]! * Math.sqrt(values[k]!) * vectors[m * K + k]!;
        square += entry ** 2;
      }
      ok(Math.abs(square - gram[m * K + m]!) < 1e-12);
    }
  });

  it("leaves attention logits as they are, at any positions, because each pair keeps its frequency", () => {
    const tensors = attention();
    const energies = (length: number, seed: number) => random(length, seed).map((value) => value ** 2);
    const { pairs } = queryKeyOrder({ query: energies(H * K, 8), key: energies(G * K, 9) }, shape);
    const original = Array.from({ length: G }, () => [0, 1, 2, 3]);
    pairs.forEach((order) => deepEqual(order.toSorted(), [0, 1, 2, 3]));
    const unsorted = packAttention(shape as never, tensors, original);
    const sorted = packAttention(shape as never, tensors, pairs);
    const [x, y] = [random(D, 10), random(D, 11)];
    for (let head = 0; head < H; head++) {
      for (const [at, position] of [[0, 0], [5, 2], [1000, 993]] as const) {
        const expected = logit(unsorted, original, [head, x, at], [y, position]);
        ok(
          Math.abs(logit(sorted, pairs, [head, x, at], [y, position]) - expected) < 1e-12 * Math.abs(expected) + 1e-13,
        );
      }
    }
  });
});

describe("queryKeyMagnitudeOrder()", () => {
  it("takes squared lengths of rows for energies, the members of a pair half a head apart", () => {
    // Rows of length 1 but for pair 2 of key head 1, whose second member is component 2 + K/2.
    const ones = (heads: number) => Float32Array.from({ length: heads * K * D }, (_, i) => i % D === 0 ? 1 : 0);
    const key = ones(G);
    key[(1 * K + 2 + K / 2) * D] = 3;
    const { pairs, pairScores } = queryKeyMagnitudeOrder({ ...attention(), query: ones(H), key }, shape);
    const usual = 2 * Math.SQRT2;
    ok(Math.abs(pairScores[1]![2]! - 4 * Math.SQRT2) < 1e-12);
    ok(pairScores.flat().every((score, i) => i === 6 || Math.abs(score - usual) < 1e-12));
    deepEqual(pairs, [[0, 1, 2, 3], [2, 0, 1, 3]]);
  });
});

describe("queryKeyRandomOrder()", () => {
  it("shuffles the pairs of every key head", () => {
    const generator = xoroshiro128plus(12);
    const heads = { numKeyValueHeads: 3, headDim: 32, rope };
    const { pairs } = queryKeyRandomOrder(heads, () => uniformFloat64(generator));
    const all = Array.from({ length: 16 }, (_, i) => i);
    pairs.forEach((order) => deepEqual(order.toSorted((a, b) => a - b), all));
    ok(`${pairs[0]}` !== `${pairs[1]}` && `${pairs[1]}` !== `${pairs[2]}`);
  });

  it("shuffles pairs and what passes, and never across", () => {
    const generator = xoroshiro128plus(13);
    const heads = { numKeyValueHeads: 2, headDim: 8, rope: { ...rope, rotaryDim: 4 } };
    const { pairs, passed } = queryKeyRandomOrder(heads, () => uniformFloat64(generator));
    pairs.forEach((order) => deepEqual(order.toSorted(), [0, 1]));
    passed.forEach((order) => deepEqual(order.toSorted(), [4, 5, 6, 7]));
  });
});
