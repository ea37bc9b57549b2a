import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import {
  headChannelMagnitudeOrder,
  headChannelOrder,
  randomOrders,
  stateMagnitudeOrder,
  stateOrder,
} from "./state_space_order.ts";

const algebra = openLinearAlgebra({ backend: "plain" });
const shape = { numHeads: 4, headDim: 2, numGroups: 2, stateSize: 3 };
const hiddenSize = 5;
const rows = 2 * 8 + 2 * 6 + 4;

describe("stateOrder()", () => {
  it("sums over a group's heads what each writes, times what the group reads", () => {
    // Roots by hand: group 0 writes [1 + 2, 3 + 0, 2 + 2] and reads [2, 1, 1]; group 1 writes 1 + 1 everywhere.
    const stepped = [1, 9, 4, /**/ 4, 0, 4, /**/ 1, 1, 1, /**/ 1, 1, 1];
    const read = [4, 1, 1, /**/ 1, 0, 9];
    const { orders, scores } = stateOrder({ stepped, read }, shape);
    deepEqual(scores, [[6, 3, 4], [2, 0, 6]]);
    deepEqual(orders, [[0, 2, 1], [2, 0, 1]]);
  });
});

describe("headChannelOrder()", () => {
  it("sorts each head by itself: equal channels come after one that stands alone", async () => {
    const grams = Float64Array.from([
      ...[9, 9, 0, /**/ 9, 9, 0, /**/ 0, 0, 4],
      ...[1, 0, 0, /**/ 0, 5, 0, /**/ 0, 0, 3],
    ]);
    const { orders, scores } = await headChannelOrder(algebra, { grams, lambda: 1 }, { numHeads: 2, headDim: 3 });
    deepEqual(orders, [[2, 0, 1], [1, 2, 0]]);
    // Two equal channels of energy e share 2e / (2e + λ); one alone has e / (e + λ).
    const expected = [[9 / 19, 9 / 19, 4 / 5], [1 / 2, 5 / 6, 3 / 4]];
    scores.forEach((head, i) => head.forEach((score, p) => ok(Math.abs(score - expected[i]![p]!) < 1e-12)));
  });
});

describe("stateMagnitudeOrder()", () => {
  it("multiplies the lengths of a state's rows of B and C", () => {
    const input = unitRows();
    input[(16 + 1 * 3 + 2) * hiddenSize] = 3; // B of group 1, state 2
    input[(16 + 6 + 1 * 3 + 2) * hiddenSize] = 2; // its C
    input[(16 + 6 + 0 * 3 + 1) * hiddenSize] = 5; // C of group 0, state 1
    const { orders, scores } = stateMagnitudeOrder({ input }, shape);
    deepEqual(scores, [[1, 5, 1], [1, 1, 6]]);
    deepEqual(orders, [[1, 0, 2], [2, 0, 1]]);
  });
});

describe("headChannelMagnitudeOrder()", () => {
  it("takes what leaves with a channel: its rows of z and x, its column of the output", () => {
    const [input, output] = [unitRows(), new Float32Array(hiddenSize * 8)];
    input[(3 * 2 + 1) * hiddenSize] = 2; // z of head 3, channel 1
    input[(8 + 1 * 2 + 1) * hiddenSize] = 3; // x of head 1, channel 1
    output[2 * 8 + 0 * 2 + 1] = 7; // output of head 0, channel 1
    const { orders, scores } = headChannelMagnitudeOrder({ input, output }, shape);
    deepEqual(orders, [[1, 0], [1, 0], [0, 1], [1, 0]]);
    const roots = [[2, 2 + 49], [2, 1 + 9], [2, 2], [2, 4 + 1]].map((head) => head.map(Math.sqrt));
    deepEqual(scores, roots);
  });
});

describe("randomOrders()", () => {
  it("shuffles every group by itself", () => {
    const generator = xoroshiro128plus(12);
    const { orders } = randomOrders(3, 32, () => uniformFloat64(generator));
    const all = Array.from({ length: 32 }, (_, i) => i);
    orders.forEach((order) => deepEqual(order.toSorted((a, b) => a - b), all));
    ok(`${orders[0]}` !== `${orders[1]}` && `${orders[1]}` !== `${orders[2]}`);
  });
});

/** An in_proj all of whose rows have length 1. */
function unitRows(): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: rows * hiddenSize }, (_, i) => i % hiddenSize === 0 ? 1 : 0);
}
