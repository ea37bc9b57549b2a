import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { matrix } from "../kernels/matrix.ts";
import { type GatedMlpTensors, packGatedMlp } from "../models/layout.ts";
import { mlpMagnitudeOrder, ridgeLeverageOrder } from "./ridge_leverage.ts";

const algebra = openLinearAlgebra({ backend: "plain" });
const hiddenSize = 12;
const intermediateSize = 24;
const identityOrder = Array.from({ length: intermediateSize }, (_, i) => i);

function random(length: number, seed: number): Float64Array<ArrayBuffer> {
  const generator = xoroshiro128plus(seed);
  return Float64Array.from({ length }, () => 2 * uniformFloat64(generator) - 1);
}

async function gramOf(x: Float64Array<ArrayBuffer>, columns: number): Promise<Float64Array<ArrayBuffer>> {
  const gram = new Float64Array(columns * columns);
  await algebra.gram(matrix(x, x.length / columns, columns), matrix(gram, columns, columns));
  return gram;
}

function mlp(seed = 1): GatedMlpTensors {
  const weight = (at: number) => Float32Array.from(random(hiddenSize * intermediateSize, seed + at));
  return { gate: weight(0), up: weight(1), down: weight(2) };
}

/** `down · (silu(gate · x) ⊙ (up · x))` in float64, of tensors packed as `[gate; up]`. */
function forward({ gateUp, down }: { gateUp: Float32Array; down: Float32Array }, x: Float64Array): number[] {
  const dot = (row: number) => Array.from(x).reduce((sum, value, i) => sum + value * gateUp[row * hiddenSize + i]!, 0);
  const hidden = identityOrder.map((channel) => {
    const gate = dot(channel);
    return gate / (1 + Math.exp(-gate)) * dot(intermediateSize + channel);
  });
  return Array.from(
    { length: hiddenSize },
    (_, row) => hidden.reduce((sum, value, channel) => sum + value * down[row * intermediateSize + channel]!, 0),
  );
}

describe("ridgeLeverageOrder()", () => {
  it("scores by diag(C·(C + λI)⁻¹), all in [0, 1)", async () => {
    // Two channels: the inverse by hand.
    const [a, b, d, lambda] = [3, 1, 2, 0.5];
    const determinant = (a + lambda) * (d + lambda) - b * b;
    const expected = [(a * (d + lambda) - b * b) / determinant, (d * (a + lambda) - b * b) / determinant];
    const gram = Float64Array.of(a, b, b, d);
    const { order, scores } = await ridgeLeverageOrder(algebra, { gram, size: 2, lambda });
    scores.forEach((score, i) => ok(Math.abs(score - expected[i]!) < 1e-14));
    deepEqual(order, [0, 1]);

    const gram24 = await gramOf(random(40 * intermediateSize, 2), intermediateSize);
    const { scores: scores24 } = await ridgeLeverageOrder(algebra, { gram: gram24, size: intermediateSize, lambda: 1 });
    ok(scores24.every((score) => score >= 0 && score < 1));
  });

  it("gives each of two equal channels at most about one half, and puts a channel of zeros last", async () => {
    const x = random(40 * 5, 3).map((value) => 100 * value);
    for (let row = 0; row < 40; row++) {
      x[row * 5 + 3] = x[row * 5 + 1]!;
      x[row * 5 + 2] = 0;
    }
    const { order, scores } = await ridgeLeverageOrder(algebra, {
      gram: await gramOf(x, 5),
      size: 5,
      lambda: 1,
    });
    ok(Math.abs(scores[1]! - 0.5) < 1e-4 && scores[1]! <= 0.5);
    ok(Math.abs(scores[1]! - scores[3]!) < 1e-9);
    equal(scores[2], 0);
    equal(order.at(-1), 2);
    deepEqual(new Set(order.slice(0, 2)), new Set([0, 4]));
  });

  it("tells channels apart whose leverages are all but 1", async () => {
    const energies = [2e12, 1e12, 4e12, 3e12];
    const gram = new Float64Array(16);
    energies.forEach((energy, i) => gram[i * 5] = energy);
    const { order } = await ridgeLeverageOrder(algebra, { gram, size: 4, lambda: 1 });
    deepEqual(order, [2, 3, 0, 1]);
  });

  it("keeps the order of equal channels", async () => {
    const gram = Float64Array.from({ length: 16 }, (_, i) => i % 5 === 0 ? 7 : 0);
    const { order } = await ridgeLeverageOrder(algebra, { gram, size: 4, lambda: 1 });
    deepEqual(order, [0, 1, 2, 3]);
  });

  it("refuses a ridge of nothing and what is no Gram matrix", async () => {
    const gram = Float64Array.of(1, 0, 0, 1);
    await rejects(ridgeLeverageOrder(algebra, { gram, size: 2, lambda: 0 }), /a ridge of 0: /);
    await rejects(
      ridgeLeverageOrder(algebra, { gram: Float64Array.of(1, 5, 5, 1), size: 2, lambda: 1 }),
      /not positive definite at pivot 1/,
    );
  });

  it("leaves the function of the MLP as it is, and copies rows and columns bit by bit", async () => {
    const tensors = mlp();
    const gram = await gramOf(random(40 * intermediateSize, 4), intermediateSize);
    const { order } = await ridgeLeverageOrder(algebra, { gram, size: intermediateSize, lambda: 1 });
    deepEqual(order.toSorted((a, b) => a - b), identityOrder);
    const sorted = packGatedMlp({ hiddenSize, intermediateSize } as never, tensors, order);
    order.forEach((from, to) => {
      for (let i = 0; i < hiddenSize; i++) {
        equal(sorted.gateUp[to * hiddenSize + i], tensors.gate[from * hiddenSize + i]);
        equal(sorted.gateUp[(intermediateSize + to) * hiddenSize + i], tensors.up[from * hiddenSize + i]);
        equal(sorted.down[i * intermediateSize + to], tensors.down[i * intermediateSize + from]);
      }
    });
    const unsorted = packGatedMlp({ hiddenSize, intermediateSize } as never, tensors, identityOrder);
    const x = random(hiddenSize, 5);
    const expected = forward(unsorted, x);
    forward(sorted, x).forEach((value, i) => ok(Math.abs(value - expected[i]!) < 1e-12));
  });
});

describe("mlpMagnitudeOrder()", () => {
  it("sorts by the length of all weights of a channel", () => {
    const gate = new Float32Array([1, 2, /**/ 3, 0, /**/ 0, 1]);
    const up = new Float32Array([0, 2, /**/ 0, 0, /**/ 1, 0]);
    const down = new Float32Array([4, 0, 1, /**/ 0, 0, 5]);
    const gated = mlpMagnitudeOrder({ into: [gate, up], down }, 3);
    deepEqual([...gated.scores], [5, 3, Math.sqrt(28)]);
    deepEqual(gated.order, [2, 0, 1]);
    const ungated = mlpMagnitudeOrder({ into: [up], down }, 3);
    deepEqual([...ungated.scores], [Math.sqrt(20), 0, Math.sqrt(27)]);
    deepEqual(ungated.order, [2, 0, 1]);
  });
});
