import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, notEqual, ok } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { matrix } from "../kernels/matrix.ts";
import type { AttentionTensors } from "../models/layout.ts";
import {
  changeValueBases,
  permuteValues,
  type ValueBasis,
  valueMagnitudeOrder,
  valueOutputBases,
  valueRandomOrder,
} from "./value_output_rotation.ts";

type Doubles = Float64Array<ArrayBuffer>;

const algebra = openLinearAlgebra({ backend: "plain" });
const D = 20;
const K = 6;
const grouped = { hiddenSize: D, numAttentionHeads: 4, numKeyValueHeads: 2, headDim: K };
const single = { ...grouped, numKeyValueHeads: 4 };
type Shape = typeof grouped;

function random(length: number, seed: number): Doubles {
  const generator = xoroshiro128plus(seed);
  return Float64Array.from({ length }, () => 2 * uniformFloat64(generator) - 1);
}

function attention({ numAttentionHeads: H, numKeyValueHeads: G }: Shape): AttentionTensors {
  const weight = (length: number, seed: number) => Float32Array.from(random(length, seed));
  return {
    query: weight(H * K * D, 1),
    key: weight(G * K * D, 2),
    value: weight(G * K * D, 3),
    output: weight(D * H * K, 4),
  };
}

/** `A·B` of `[m, k]` and `[k, n]`. */
function times(a: ArrayLike<number>, b: ArrayLike<number>, m: number, k: number, n: number): Doubles {
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) for (let p = 0; p < k; p++) c[i * n + j]! += a[i * k + p]! * b[p * n + j]!;
  }
  return c;
}

function transposed(a: ArrayLike<number>, rows: number): Doubles {
  const columns = a.length / rows;
  return Float64Array.from({ length: a.length }, (_, at) => a[at % rows * columns + Math.floor(at / rows)]!);
}

function near(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  equal(actual.length, expected.length);
  for (let i = 0; i < expected.length; i++) {
    ok(Math.abs(actual[i]! - expected[i]!) <= tolerance, `element ${i}: ${actual[i]}, not ${expected[i]}`);
  }
}

const identity = Float64Array.from({ length: K * K }, (_, i) => i % (K + 1) === 0 ? 1 : 0);

/** V of one key/value head, `[D, K]`. */
function values({ value }: AttentionTensors, group: number): Doubles {
  return transposed(value.subarray(group * K * D, (group + 1) * K * D), K);
}

/** O of one query head, `[K, D]`. */
function outputs({ output }: AttentionTensors, head: number, { numAttentionHeads: H }: Shape): Doubles {
  return Float64Array.from({ length: K * D }, (_, at) => output[(at % D * H + head) * K + Math.floor(at / D)]!);
}

/** Correlated inputs, `[T, D]`. */
const inputs = times(random(50 * D, 5), random(D * D, 6), 50, D, D);

async function valueGram(tensors: AttentionTensors, { numKeyValueHeads: G }: Shape): Promise<Doubles> {
  const grams = new Float64Array(G * K * K);
  for (let group = 0; group < G; group++) {
    const activations = times(inputs, values(tensors, group), 50, D, K);
    await algebra.gram(matrix(activations, 50, K), matrix(grams, K, K, { offset: group * K * K }));
  }
  return grams;
}

async function basesOf(tensors: AttentionTensors, shape: Shape): Promise<ValueBasis[]> {
  return await valueOutputBases(algebra, tensors, await valueGram(tensors, shape), shape);
}

/** Squared size of X·V·(I − T_k·T⁻¹_k)·O: what is lost over calibration with the first k channels alone. */
function truncationError(tensors: AttentionTensors, { basis, inverse }: ValueBasis, head: number, k: number): number {
  const kept = times(basis.map((value, i) => i % K < k ? value : 0), inverse, K, K, K);
  const lost = identity.map((value, i) => value - kept[i]!);
  const difference = times(times(values(tensors, head), lost, D, K, K), outputs(tensors, head, single), D, K, D);
  return times(inputs, difference, 50, D, D).reduce((sum, value) => sum + value * value, 0);
}

/** What attention adds to the residual stream for one query, given its attention weights over the inputs' rows. */
function attend(tensors: AttentionTensors, weights: Doubles, shape: Shape): Doubles {
  const { numAttentionHeads: H, numKeyValueHeads: G } = shape;
  const sum = Float64Array.from(tensors.outputBias ?? new Float32Array(D));
  for (let head = 0; head < H; head++) {
    const group = Math.floor(head / (H / G));
    const activations = times(inputs, values(tensors, group), 50, D, K)
      .map((value, at) => value + (tensors.valueBias?.[group * K + at % K] ?? 0));
    const attended = times(weights.subarray(head * 50, (head + 1) * 50), activations, 1, 50, K);
    times(attended, outputs(tensors, head, shape), 1, K, D).forEach((value, i) => sum[i]! += value);
  }
  return sum;
}

/** Rows that sum to one. */
function attentionWeights(heads: number): Doubles {
  const weights = random(heads * 50, 7).map((value) => value + 1);
  const sums = Array.from({ length: heads }, (_, h) => weights.subarray(h * 50, (h + 1) * 50).reduce((a, b) => a + b));
  return weights.map((value, at) => value / sums[Math.floor(at / 50)]!);
}

describe("valueOutputBases()", () => {
  for (const [kind, shape] of [["grouped", grouped], ["one query head per value head", single]] as const) {
    it(`${kind}: keeps V·O of every query head`, async () => {
      const tensors = attention(shape);
      const bases = await basesOf(tensors, shape);
      for (const { basis, inverse } of bases) near(times(basis, inverse, K, K, K), identity, 1e-12);
      for (let head = 0; head < shape.numAttentionHeads; head++) {
        const group = Math.floor(head / (shape.numAttentionHeads / shape.numKeyValueHeads));
        const [v, o] = [values(tensors, group), outputs(tensors, head, shape)];
        const newV = times(v, bases[group]!.basis, D, K, K);
        near(times(newV, times(bases[group]!.inverse, o, K, K, D), D, K, D), times(v, o, D, K, D), 1e-10);
      }
    });

    it(`${kind}: makes the new value channels uncorrelated, their energies descending`, async () => {
      const tensors = attention(shape);
      const grams = await valueGram(tensors, shape);
      (await basesOf(tensors, shape)).forEach(({ basis, energies }, group) => {
        const gram = grams.subarray(group * K * K, (group + 1) * K * K);
        const rotated = times(transposed(basis, K), times(gram, basis, K, K, K), K, K, K);
        const diagonal = identity.map((value, i) => value * energies[i % K]!);
        near(rotated, diagonal, 1e-11 * energies[0]!);
        for (let k = 1; k < K; k++) ok(energies[k - 1]! >= energies[k]!);
      });
    });
  }

  it("is a rotation when several query heads share a value head", async () => {
    for (const { basis, inverse } of await basesOf(attention(grouped), grouped)) {
      deepEqual(inverse, transposed(basis, K));
      near(times(inverse, basis, K, K, K), identity, 1e-12);
    }
  });

  it("with one query head, has orthonormal outputs and loses exactly the energies of the channels that are cut", async () => {
    const tensors = attention(single);
    const bases = await basesOf(tensors, single);
    bases.forEach((basis, head) => {
      const newOutputs = times(basis.inverse, outputs(tensors, head, single), K, K, D);
      near(times(newOutputs, transposed(newOutputs, K), K, D, K), identity, 1e-11);
      for (let k = 0; k <= K; k++) {
        const cut = basis.energies.subarray(k).reduce((sum, value) => sum + value, 0);
        ok(Math.abs(truncationError(tensors, basis, head, k) - cut) < 1e-10 * basis.energies[0]!);
      }
    });
  });

  it("with one query head, loses less at every width than the rotation by values alone", async () => {
    const tensors = attention(single);
    const bases = await basesOf(tensors, single);
    const grams = await valueGram(tensors, single);
    for (let head = 0; head < 4; head++) {
      const { vectors } = await algebra.symmetricEigen(grams.slice(head * K * K, (head + 1) * K * K), K);
      const rotation = { basis: vectors, inverse: transposed(vectors, K), energies: new Float64Array(K) };
      for (let k = 1; k < K; k++) {
        ok(truncationError(tensors, bases[head]!, head, k) < truncationError(tensors, rotation, head, k));
      }
    }
  });

  it("stays exact for values of low rank, and for none at all", async () => {
    for (const shape of [grouped, single]) {
      const rank1 = attention(shape);
      rank1.value.forEach((_, at) => rank1.value[at] = (1 + Math.floor(at / D) % K) * rank1.value[at % D]!);
      const none = { ...attention(shape), value: new Float32Array(shape.numKeyValueHeads * K * D) };
      for (const tensors of [rank1, none]) {
        for (const { basis, inverse } of await basesOf(tensors, shape)) {
          ok(basis.every(Number.isFinite));
          near(times(basis, inverse, K, K, K), identity, 1e-8);
        }
      }
    }
  });
});

describe("changeValueBases()", () => {
  it("leaves attention as it is for any attention pattern, values' biases moved to the outputs", async () => {
    for (const shape of [grouped, single]) {
      const { numAttentionHeads: H, numKeyValueHeads: G } = shape;
      const plain = attention(shape);
      const valueBias = Float32Array.from(random(G * K, 8));
      const outputBias = Float32Array.from(random(D, 9));
      for (const tensors of [plain, { ...plain, valueBias }, { ...plain, valueBias, outputBias }]) {
        const changed = await changeValueBases(algebra, tensors, await basesOf(tensors, shape), shape);
        equal(changed.valueBias, undefined);
        equal(changed.outputBias === undefined, tensors === plain);
        equal(changed.query, tensors.query);
        const weights = attentionWeights(H);
        const expected = attend(tensors, weights, shape);
        near(attend(changed, weights, shape), expected, 1e-5 * Math.max(...expected.map(Math.abs)));
      }
    }
  });

  it("leaves the tensors that it is given as they are", async () => {
    const tensors = attention(grouped);
    await changeValueBases(algebra, tensors, await basesOf(tensors, grouped), grouped);
    deepEqual(tensors, attention(grouped));
  });
});

describe("permuteValues()", () => {
  it("leaves attention as it is to the last bit of each weight", () => {
    const tensors = { ...attention(grouped), valueBias: Float32Array.from(random(2 * K, 10)) };
    const orders = [[5, 3, 1, 0, 2, 4], [1, 0, 2, 3, 5, 4]];
    const changed = permuteValues(tensors, orders, grouped);
    notEqual(`${changed.value}`, `${tensors.value}`);
    deepEqual(changed.value.toSorted(), tensors.value.toSorted());
    const weights = attentionWeights(4);
    near(attend(changed, weights, grouped), attend(tensors, weights, grouped), 1e-5);
  });
});

describe("valueMagnitudeOrder()", () => {
  it("sorts by the product of the lengths in and out, outputs over all query heads of the group", () => {
    const shape = { hiddenSize: 1, numAttentionHeads: 2, numKeyValueHeads: 1, headDim: 3 };
    const value = new Float32Array([2, -3, 1]);
    const output = new Float32Array([3, 1, 6, /**/ 4, 0, 8]); // lengths 5, 1, 10
    deepEqual(valueMagnitudeOrder({ value, output }, shape), [[0, 2, 1]]);
  });
});

describe("valueRandomOrder()", () => {
  it("shuffles the channels of every value head", () => {
    const generator = xoroshiro128plus(11);
    const orders = valueRandomOrder({ numKeyValueHeads: 2, headDim: 16 }, () => uniformFloat64(generator));
    orders.forEach((order) => equal(new Set(order).size, 16));
    notEqual(`${orders[0]}`, `${orders[1]}`);
  });
});
