import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { matrix } from "../kernels/matrix.ts";
import { withoutDrift, withoutInputDrift } from "./drift.ts";

const plain = openLinearAlgebra({ backend: "plain" });
const [tokens, outFeatures, inFeatures] = [400, 5, 24];

function random(length: number, seed: number): Float32Array<ArrayBuffer> {
  const generator = xoroshiro128plus(seed);
  return Float32Array.from({ length }, () => uniformFloat64(generator) - 0.5);
}

const weight = random(outFeatures * inFeatures, 1);
/** What the quantized network reads, and what the unmodified one would. */
const x = random(tokens * inFeatures, 2);
const reference = x.map((value, at) => 1.1 * value + 0.2 * x[at - at % inFeatures]!);

/** `AᵀB` of two lists of rows. */
async function crossGram(
  a: Float32Array<ArrayBuffer>,
  b: Float32Array<ArrayBuffer>,
): Promise<Float32Array<ArrayBuffer>> {
  const [left, right] = [a.length / tokens, b.length / tokens];
  const product = new Float32Array(left * right);
  await plain.multiply(matrix(a, tokens, left), matrix(b, tokens, right), matrix(product, left, right), {
    transposeA: true,
  });
  return product;
}

async function outputs(rows: Float32Array<ArrayBuffer>, by: Float32Array<ArrayBuffer>) {
  const y = new Float32Array(tokens * outFeatures);
  await plain.multiply(
    matrix(rows, tokens, inFeatures),
    matrix(by, outFeatures, inFeatures),
    matrix(y, tokens, outFeatures),
    {
      transposeB: true,
    },
  );
  return y;
}

const distance = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0);

describe("withoutDrift()", () => {
  it("solves the normal equations of the ridge regression, λ being the mean of the diagonal", async () => {
    const gram = await crossGram(x, x);
    const missing = random(outFeatures * inFeatures, 3);
    const corrected = await withoutDrift(plain, weight, { missing, gram });
    let trace = 0;
    for (let i = 0; i < inFeatures; i++) trace += gram[i * inFeatures + i]!;
    for (let row = 0; row < outFeatures; row++) {
      for (let column = 0; column < inFeatures; column++) {
        let sum = 0;
        for (let i = 0; i < inFeatures; i++) {
          const dampened = gram[i * inFeatures + column]! + (i === column ? trace / inFeatures : 0);
          sum += (corrected[row * inFeatures + i]! - weight[row * inFeatures + i]!) * dampened;
        }
        ok(Math.abs(sum - missing[row * inFeatures + column]!) < 1e-4);
      }
    }
  });

  it("changes nothing where nothing is missing", async () => {
    const gram = await crossGram(x, x);
    deepEqual(await withoutDrift(plain, weight, { missing: new Float32Array(weight.length), gram }), weight);
  });
});

describe("withoutInputDrift()", () => {
  it("is the regression of what the outputs miss when inputs drift", async () => {
    const [was, is] = [await outputs(reference, weight), await outputs(x, weight)];
    const gram = await crossGram(x, x);
    const missing = await crossGram(was.map((value, i) => value - is[i]!), x);
    const drift = await crossGram(reference.map((value, i) => value - x[i]!), x);
    const expected = await withoutDrift(plain, weight, { missing, gram });
    const found = await withoutInputDrift(plain, weight, { drift, gram });
    ok(distance(found, expected) < 1e-9 * distance(expected, weight));
  });

  it("brings the outputs on drifted inputs closer to those on the unmodified network's", async () => {
    const gram = await crossGram(x, x);
    const drift = await crossGram(reference.map((value, i) => value - x[i]!), x);
    const corrected = await withoutInputDrift(plain, weight, { drift, gram });
    const wanted = await outputs(reference, weight);
    const before = distance(await outputs(x, weight), wanted);
    const after = distance(await outputs(x, corrected), wanted);
    ok(after < 0.5 * before, `${before} became ${after}`);
  });
});
