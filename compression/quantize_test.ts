import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, notDeepEqual, ok, rejects } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { matrix } from "../kernels/matrix.ts";
import {
  groupEndsOf,
  groupStartsOf,
  int4Scale,
  packInt4,
  reconstruct,
  roundToNearest,
  ZERO_POINT,
} from "../models/int4.ts";
import { gptq } from "./gptq.ts";
import { dampeningFor, factorHessian } from "./hessian.ts";
import type { QuantizationJob } from "./quantization_job.ts";
import { quantize } from "./quantize.ts";

const plain = openLinearAlgebra({ backend: "plain" });
const fastest = openLinearAlgebra({ threads: 1 });

const outFeatures = 10;
const inFeatures = 72;
/** Two segments, so that a group of 8 lies between two of 32. */
const groupStarts = groupStartsOf([40, 32], 32);

function random(length: number, seed: number): Float32Array<ArrayBuffer> {
  const generator = xoroshiro128plus(seed);
  const uniform = () => uniformFloat64(generator) - 0.5;
  return Float32Array.from({ length }, () => uniform() + uniform() + uniform());
}

/** Inputs that share a few directions and differ in size, as activations do. */
function inputs(tokens: number, seed: number, shared = 6): Float64Array<ArrayBuffer> {
  const directions = random(shared * inFeatures, seed);
  const sizes = random(inFeatures, seed + 1).map((value) => Math.exp(value));
  const along = random(tokens * shared, seed + 2);
  const own = random(tokens * inFeatures, seed + 3);
  return Float64Array.from({ length: tokens * inFeatures }, (_, at) => {
    const [token, input] = [Math.floor(at / inFeatures), at % inFeatures];
    let value = 0.3 * own[at]!;
    for (let k = 0; k < shared; k++) value += along[token * shared + k]! * directions[k * inFeatures + input]!;
    return value * sizes[input]!;
  });
}

async function gramOf(x: Float64Array<ArrayBuffer>): Promise<Float64Array<ArrayBuffer>> {
  const gram = new Float64Array(inFeatures * inFeatures);
  await plain.gram(matrix(x, x.length / inFeatures, inFeatures), matrix(gram, inFeatures, inFeatures));
  return gram;
}

async function jobOn(
  x: Float64Array<ArrayBuffer>,
  options: Partial<QuantizationJob> = {},
  algebra = plain,
): Promise<QuantizationJob> {
  return {
    weight: random(outFeatures * inFeatures, 1),
    outFeatures,
    inFeatures,
    groupStarts,
    segmentStarts: [0, 40],
    hessian: await factorHessian(algebra, await gramOf(x), inFeatures),
    scaleSearch: false,
    ...options,
  };
}

/**
 * GPTQ by the definition of optimal brain surgery: before each column the Hessian of the columns that are left is
 * inverted anew, by Gauss-Jordan elimination, and every weight that is left is corrected at once.
 */
function surgery(job: QuantizationJob, gram: Float64Array): { codes: Uint8Array; scales: number[] } {
  const n = inFeatures;
  const trace = Array.from({ length: n }, (_, i) => gram[i * (n + 1)]!).reduce((sum, value) => sum + value);
  const work = Float64Array.from(job.weight);
  const codes = new Uint8Array(work.length);
  const scales: number[] = [];
  const ends = groupEndsOf(groupStarts, n);
  for (let column = 0; column < n; column++) {
    const left = n - column;
    const hessian = Array.from(
      { length: left },
      (_, i) =>
        Array.from({ length: left }, (_, j) => gram[(column + i) * n + column + j]! + (i === j ? 0.01 * trace / n : 0)),
    );
    const inverse = inverted(hessian);
    const group = groupStarts.findLastIndex((start) => start <= column);
    for (let row = 0; row < outFeatures; row++) {
      const at = row * n + column;
      if (groupStarts[group] === column) {
        const inGroup = work.subarray(at, at + ends[group]! - column);
        scales[row * ends.length + group] = int4Scale(
          inGroup.reduce((max, value) => Math.max(max, Math.abs(value)), 0),
        );
      }
      const scale = scales[row * ends.length + group]!;
      const code = Math.max(-8, Math.min(7, Math.round(work[at]! / scale)));
      codes[at] = code + ZERO_POINT;
      const error = (work[at]! - code * scale) / inverse[0]![0]!;
      for (let j = 0; j < left; j++) work[at + j]! -= error * inverse[0]![j]!;
    }
  }
  return { codes, scales };
}

function inverted(a: number[][]): number[][] {
  const n = a.length;
  const wide = a.map((row, i) => [...row, ...row.map((_, j) => i === j ? 1 : 0)]);
  for (let pivot = 0; pivot < n; pivot++) {
    const lead = wide[pivot]!.map((value) => value / wide[pivot]![pivot]!);
    wide[pivot] = lead;
    for (let row = 0; row < n; row++) {
      if (row !== pivot) wide[row] = wide[row]!.map((value, j) => value - wide[row]![pivot]! * lead[j]!);
    }
  }
  return wide.map((row) => row.slice(n));
}

describe("gptq()", () => {
  it("gives the codes and scales of optimal brain surgery, column by column", async () => {
    const x = inputs(300, 2);
    const job = await jobOn(x);
    const int4 = await gptq(plain, job);
    const expected = surgery(job, await gramOf(x));
    deepEqual(int4.codes, expected.codes);
    deepEqual([...new Float16Array(int4.scales.buffer)], expected.scales);
  });

  it("chooses the scales of a later group from weights that make up for earlier ones", async () => {
    const job = await jobOn(inputs(300, 7));
    const compensated = new Float16Array((await gptq(plain, job)).scales.buffer);
    const rounded = new Float16Array(roundToNearest(job.weight, job).scales.buffer);
    const inGroup = (scales: Float16Array, group: number) => [...scales].filter((_, i) => i % 3 === group);
    deepEqual(inGroup(compensated, 0), inGroup(rounded, 0));
    notDeepEqual(inGroup(compensated, 1), inGroup(rounded, 1));
  });
});

describe("quantize() by gptq", () => {
  it("gives the same on every backend", async () => {
    const x = inputs(300, 3);
    const mine = await quantize(plain, "gptq", await jobOn(x));
    const theirs = await quantize(fastest, "gptq", await jobOn(x, {}, fastest));
    deepEqual(theirs.int4, mine.int4);
  });

  it("is plain rounding when inputs have nothing to do with each other", async () => {
    const identity = Float64Array.from({ length: inFeatures ** 2 }, (_, i) => i % (inFeatures + 1) === 0 ? 1 : 0);
    const job = await jobOn(identity);
    const { int4 } = await quantize(plain, "gptq", job);
    deepEqual(int4, roundToNearest(job.weight, job));
  });

  it("errs less than plain rounding on correlated inputs, whether or not scales are searched for", async () => {
    for (const seed of [4, 5, 6]) {
      for (const scaleSearch of [false, true]) {
        const job = await jobOn(inputs(300, seed), { scaleSearch });
        const compensated = await quantize(plain, "gptq", job);
        const rounded = await quantize(plain, "nearest", job);
        ok(compensated.relativeSquaredError < 0.7 * rounded.relativeSquaredError);
      }
    }
  });

  it("sets the weights of inputs that are always zero to zero, and works on", async () => {
    const dead = [0, 33, 71];
    const x = inputs(300, 8).map((value, at) => dead.includes(at % inFeatures) ? 0 : value);
    for (const scaleSearch of [false, true]) {
      const { reconstruction, relativeSquaredError } = await quantize(plain, "gptq", await jobOn(x, { scaleSearch }));
      for (let row = 0; row < outFeatures; row++) {
        for (const column of dead) equal(reconstruction[row * inFeatures + column], 0);
      }
      ok(relativeSquaredError > 0 && relativeSquaredError < 0.02);
    }
  });

  it("treats rows alone: a part of the rows gives a part of the codes, bit by bit", async () => {
    const job = await jobOn(inputs(300, 9), { scaleSearch: true });
    const whole = packInt4((await quantize(plain, "gptq", job)).int4, {
      blockSize: 32,
      columns: { start: 40, end: 72 },
    });
    const [start, end] = [3, 9];
    const weight = job.weight.slice(start * inFeatures, end * inFeatures);
    const part = await quantize(plain, "gptq", { ...job, weight, outFeatures: end - start });
    const packed = packInt4(part.int4, { blockSize: 32, columns: { start: 40, end: 72 } });
    deepEqual(packed.codes, whole.codes.slice(start * 16, end * 16));
    deepEqual(packed.scales, whole.scales.slice(start, end));
  });

  it("leaves the weights that it is given as they are", async () => {
    const job = await jobOn(inputs(300, 10));
    await quantize(plain, "gptq", job);
    deepEqual(job.weight, random(outFeatures * inFeatures, 1));
  });
});

describe("quantize()", () => {
  it("reports the share of the outputs' energy that is error", async () => {
    const x = inputs(50, 11);
    const job = await jobOn(x);
    for (const method of ["gptq", "nearest"] as const) {
      const { reconstruction, relativeSquaredError } = await quantize(plain, method, job);
      let error = 0;
      let size = 0;
      for (let token = 0; token < 50; token++) {
        for (let row = 0; row < outFeatures; row++) {
          let [exact, rounded] = [0, 0];
          for (let i = 0; i < inFeatures; i++) {
            exact += x[token * inFeatures + i]! * job.weight[row * inFeatures + i]!;
            rounded += x[token * inFeatures + i]! * reconstruction[row * inFeatures + i]!;
          }
          error += (exact - rounded) ** 2;
          size += exact ** 2;
        }
      }
      ok(Math.abs(relativeSquaredError - error / size) < 1e-4 * relativeSquaredError);
    }
  });

  it("errs less with searched scales: gptq on correlated inputs, plain rounding on independent ones", async () => {
    for (const [method, shared] of [["gptq", 6], ["nearest", 0]] as const) {
      const x = inputs(300, 12, shared);
      const covering = await quantize(plain, method, await jobOn(x));
      const searched = await quantize(plain, method, await jobOn(x, { scaleSearch: true }));
      ok(searched.relativeSquaredError < 0.85 * covering.relativeSquaredError);
    }
  });

  it("gives zeros where there is nothing to weigh: zero weights, zero inputs", async () => {
    for (const method of ["gptq", "nearest"] as const) {
      for (const scaleSearch of [false, true]) {
        const nothing = await jobOn(inputs(300, 13), {
          weight: new Float32Array(outFeatures * inFeatures),
          scaleSearch,
        });
        const { int4, relativeSquaredError } = await quantize(plain, method, nothing);
        ok(int4.codes.every((code) => code === ZERO_POINT));
        deepEqual([...new Float16Array(int4.scales.buffer)], new Array(outFeatures * groupStarts.length).fill(1));
        equal(relativeSquaredError, 0);
      }
    }
    const dark = await jobOn(new Float64Array(inFeatures), { scaleSearch: true });
    equal((await quantize(plain, "gptq", dark)).relativeSquaredError, 0);
    deepEqual((await quantize(plain, "nearest", dark)).int4, roundToNearest(dark.weight, dark));
  });

  it("returns what the codes stand for", async () => {
    const { int4, reconstruction } = await quantize(plain, "gptq", await jobOn(inputs(300, 14)));
    deepEqual(reconstruction, reconstruct(int4));
  });

  it("names everything that is wrong with a matrix", async () => {
    const job = await jobOn(inputs(300, 15));
    const weight = random(outFeatures * inFeatures + 1, 1);
    weight[inFeatures + 2] = NaN;
    await rejects(
      quantize(plain, "gptq", { ...job, weight }),
      /^RangeError: Cannot quantize a matrix \[10, 72\]: it has 721 elements; row 1, column 2 is NaN$/,
    );
    await rejects(quantize(plain, "gptq", { ...job, inFeatures: 36, outFeatures: 20 }), /its Hessian is of order 72$/);
    await rejects(quantize(plain, "nearest", { ...job, groupStarts: [0, 72] }), /groups that start at 0, 72$/);
  });
});

describe("dampeningFor()", () => {
  it("is the share of inputs in the tokens that were seen, and GPTQ's where those are many", () => {
    equal(dampeningFor(1536, 16_384), 1536 / 16_384);
    equal(dampeningFor(576, 576_000), 0.01);
  });
});

describe("factorHessian()", () => {
  it("gives an upper factor of the inverse of the dampened matrix", async () => {
    const gram = await gramOf(inputs(300, 16));
    const { inverseFactor } = await factorHessian(plain, gram, inFeatures);
    const trace = Array.from({ length: inFeatures }, (_, i) => gram[i * (inFeatures + 1)]!).reduce((a, b) => a + b);
    const dampened = Array.from({ length: inFeatures }, (_, i) =>
      Array.from(
        gram.subarray(i * inFeatures, (i + 1) * inFeatures),
        (value, j) => i === j ? value + 0.01 * trace / inFeatures : value,
      ));
    const inverse = inverted(dampened);
    const greatest = Math.max(...inverse.flat());
    for (let i = 0; i < inFeatures; i++) {
      for (let j = 0; j < inFeatures; j++) {
        let sum = 0;
        for (let k = 0; k < inFeatures; k++) {
          sum += inverseFactor[k * inFeatures + i]! * inverseFactor[k * inFeatures + j]!;
        }
        ok(Math.abs(sum - inverse[i]![j]!) < 1e-5 * greatest);
        if (i > j) equal(inverseFactor[i * inFeatures + j], 0);
      }
    }
  });

  it("takes fewer tokens than inputs", async () => {
    const job = await jobOn(inputs(5, 17));
    ok((await quantize(plain, "gptq", job)).relativeSquaredError < 0.01);
  });

  it("refuses what is no Gram matrix", async () => {
    await rejects(factorHessian(plain, new Float64Array([1, 2, 2, 1]), 2), /it is not positive semidefinite$/);
    await rejects(factorHessian(plain, new Float64Array([1, 0, 0, NaN]), 2), /its trace is NaN$/);
    await rejects(factorHessian(plain, new Float64Array(3), 2), /it has 3 elements$/);
  });
});
