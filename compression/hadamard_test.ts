import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { hadamardRotation, supportsHadamard } from "./hadamard.ts";

function random(length: number, seed: number): Float64Array {
  const generator = xoroshiro128plus(seed);
  return Float64Array.from({ length }, () => 2 * uniformFloat64(generator) - 1);
}

/** Hᵀ: the rotation of every unit vector. */
function rotatedIdentity(order: number): Float64Array {
  const rows = Float64Array.from({ length: order * order }, (_, i) => i % (order + 1) === 0 ? 1 : 0);
  hadamardRotation(order)(rows);
  return rows;
}

describe("hadamardRotation()", () => {
  // 12, 20, 44, 60 are Paley's first construction, 28, 36 the second; 24 and 72 have butterflies after them.
  for (const order of [1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 40, 44, 60, 72, 76, 84]) {
    it(`of order ${order} has entries of one magnitude and rows that are orthonormal`, () => {
      const matrix = rotatedIdentity(order);
      ok(matrix.every((value) => Math.abs(Math.abs(value) - 1 / Math.sqrt(order)) < 1e-15));
      for (let i = 0; i < order; i++) {
        for (let j = 0; j <= i; j++) {
          let dot = 0;
          for (let k = 0; k < order; k++) dot += matrix[i * order + k]! * matrix[j * order + k]!;
          ok(Math.abs(dot - (i === j ? 1 : 0)) < 1e-14);
        }
      }
    });
  }

  it("multiplies every row by the same matrix", () => {
    const order = 72;
    const matrix = rotatedIdentity(order);
    const rows = random(3 * order, 1);
    const expected = rows.map((_, at) => {
      let sum = 0;
      for (let k = 0; k < order; k++) sum += rows[at - at % order + k]! * matrix[k * order + at % order]!;
      return sum;
    });
    hadamardRotation(order)(rows);
    rows.forEach((value, i) => ok(Math.abs(value - expected[i]!) < 1e-13));
  });

  it("keeps lengths at the hidden sizes of models, and is the same every time", () => {
    for (const order of [576, 896, 960, 1536, 2048, 2560, 3072, 3584, 4096, 5120]) {
      const x = random(order, order);
      const [once, again] = [x.slice(), x.slice()];
      hadamardRotation(order)(once);
      hadamardRotation(order)(again);
      deepEqual(once, again);
      const square = (values: Float64Array) => values.reduce((sum, value) => sum + value * value, 0);
      ok(Math.abs(square(once) / square(x) - 1) < 1e-13);
    }
  });

  it("commutes with taking rows", () => {
    const rows = Float32Array.from(random(4 * 12, 2));
    const some = rows.slice(12, 36);
    hadamardRotation(12)(rows);
    hadamardRotation(12)(some);
    deepEqual(some, rows.slice(12, 36));
  });

  it("refuses orders without a construction, and arrays that are no rows of the order", () => {
    for (const order of [0, 3, 6, 52, 92, 100, 1.5, -4]) {
      equal(supportsHadamard(order), false);
      throws(
        () => hadamardRotation(order),
        new RegExp(`^RangeError: Cannot build a Hadamard matrix of order ${order}:`),
      );
    }
    ok(supportsHadamard(576));
    throws(() => hadamardRotation(12)(new Float32Array(13)), /^RangeError: Cannot rotate 13 elements in rows of 12$/);
  });
});
