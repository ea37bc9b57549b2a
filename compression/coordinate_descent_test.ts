import { describe, it } from "@std/testing/bdd";
import { deepEqual, notDeepEqual, ok } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { matrix } from "../kernels/matrix.ts";
import { groupStartsOf, type Int4Codes, reconstruct, roundToNearest } from "../models/int4.ts";
import { descend } from "./coordinate_descent.ts";
import { gptq } from "./gptq.ts";
import { factorHessian } from "./hessian.ts";
import type { QuantizationJob } from "./quantization_job.ts";
import { segmentedGptq } from "./segmented_gptq.ts";

const plain = openLinearAlgebra({ backend: "plain" });
const outFeatures = 6;
const inFeatures = 104;
const segments = [48, 32, 24];

function random(length: number, seed: number): Float32Array<ArrayBuffer> {
  const generator = xoroshiro128plus(seed);
  return Float32Array.from({ length }, () => uniformFloat64(generator) + uniformFloat64(generator) - 1);
}

/** `XᵀX` of 200 tokens whose inputs share four directions. */
async function correlatedGram(seed: number): Promise<Float32Array<ArrayBuffer>> {
  const x = matrix(random(200 * inFeatures, seed), 200, inFeatures);
  const directions = matrix(random(4 * inFeatures, seed + 1), 4, inFeatures);
  await plain.multiply(matrix(random(200 * 4, seed + 2), 200, 4), directions, x, { beta: 1 });
  const gram = matrix(new Float32Array(inFeatures ** 2), inFeatures, inFeatures);
  await plain.gram(x, gram);
  return gram.data;
}

async function jobOf(seed: number, options: Partial<QuantizationJob> = {}): Promise<QuantizationJob> {
  let end = 0;
  return {
    weight: random(outFeatures * inFeatures, seed),
    outFeatures,
    inFeatures,
    groupStarts: groupStartsOf(segments, 32),
    segmentStarts: segments.map((width) => (end += width) - width),
    hessian: await factorHessian(plain, await correlatedGram(seed + 10), inFeatures),
    scaleSearch: true,
    ...options,
  };
}

/** `(w − ŵ)·H·(w − ŵ)ᵀ` of each row, H dampened, in float64. */
function errorsOf({ weight, hessian: { factor } }: QuantizationJob, codes: Int4Codes): number[] {
  const reconstruction = reconstruct(codes);
  return Array.from({ length: outFeatures }, (_, row) => {
    let error = 0;
    for (let j = 0; j < inFeatures; j++) {
      let along = 0;
      for (let i = 0; i <= j; i++) {
        const at = row * inFeatures + i;
        along += (weight[at]! - reconstruction[at]!) * factor[i * inFeatures + j]!;
      }
      error += along * along;
    }
    return error;
  });
}

describe("descend()", () => {
  for (const scaleSearch of [false, true]) {
    it(`makes no row worse, and all together better: scales ${scaleSearch ? "searched for" : "kept"}`, async () => {
      for (const seed of [1, 2, 3]) {
        const job = await jobOf(seed, { scaleSearch });
        for (const rounded of [await gptq(plain, job), roundToNearest(job.weight, job)]) {
          const before = errorsOf(job, rounded);
          const after = errorsOf(job, await descend(plain, job, rounded));
          after.forEach((error, row) => ok(error <= before[row]! * (1 + 1e-6), `${before[row]} became ${error}`));
          const sum = (errors: number[]) => errors.reduce((total, error) => total + error);
          ok(sum(after) < 0.97 * sum(before), `${sum(before)} became ${sum(after)}`);
        }
      }
    });
  }

  it("keeps what int4 holds exactly", async () => {
    const job = await jobOf(4);
    const exact = roundToNearest(job.weight, job);
    deepEqual(await descend(plain, { ...job, weight: reconstruct(exact) }, exact), exact);
  });

  it("leaves scales alone where they are not searched for", async () => {
    const job = await jobOf(5, { scaleSearch: false });
    const rounded = await gptq(plain, job);
    const found = await descend(plain, job, rounded);
    deepEqual(found.scales, rounded.scales);
    notDeepEqual(found.codes, rounded.codes);
  });

  it("leaves the codes that it is given as they are", async () => {
    const job = await jobOf(6);
    const rounded = await gptq(plain, job);
    await descend(plain, job, rounded);
    deepEqual(rounded, await gptq(plain, job));
  });
});

describe("segmentedGptq()", () => {
  it("errs less than GPTQ alone", async () => {
    for (const seed of [7, 8, 9]) {
      const job = await jobOf(seed);
      const sum = (codes: Int4Codes) => errorsOf(job, codes).reduce((total, error) => total + error);
      ok(sum(await segmentedGptq(plain, job)) < 0.97 * sum(await gptq(plain, job)));
    }
  });

  it("rounds a segment without regard to the weights of later ones", async () => {
    const job = await jobOf(10);
    const whole = await segmentedGptq(plain, job);
    const kept = segments[0]! + segments[1]!;
    const changed = job.weight.map((value, at) => at % inFeatures < kept ? value : -3 * value);
    const other = await segmentedGptq(plain, { ...job, weight: changed });
    const prefix = ({ codes }: Int4Codes) => codes.filter((_, at) => at % inFeatures < kept);
    deepEqual(prefix(other), prefix(whole));
    notDeepEqual(other.codes, whole.codes);
  });

  it("comes back with what int4 holds exactly", async () => {
    const job = await jobOf(11);
    const exact = reconstruct(roundToNearest(job.weight, job));
    deepEqual(reconstruct(await segmentedGptq(plain, { ...job, weight: exact })), exact);
  });
});
