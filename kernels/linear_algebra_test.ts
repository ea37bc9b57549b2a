import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok, rejects, throws } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openLinearAlgebra } from "./linear_algebra.ts";
import { type FloatsOrDoubles, matrix } from "./matrix.ts";
import { openOpenBlas } from "./openblas.ts";

type Doubles = Float64Array<ArrayBuffer>;

const plain = openLinearAlgebra({ backend: "plain" });
const backends = [plain];
if (openOpenBlas() !== null) backends.push(openLinearAlgebra({ backend: "openblas", threads: 1 }));

function random(length: number, seed: number): Doubles {
  const generator = xoroshiro128plus(seed);
  return Float64Array.from({ length }, () => 2 * uniformFloat64(generator) - 1);
}

/** `XᵀX` of random X with `n + 3` rows. */
function positiveDefinite(n: number, seed: number): Doubles {
  const x = random((n + 3) * n, seed);
  return product(x, x, n, n, n + 3, { transposeA: true });
}

/** The definition, for checking. */
function product(
  a: FloatsOrDoubles,
  b: FloatsOrDoubles,
  m: number,
  n: number,
  k: number,
  { transposeA = false, transposeB = false } = {},
): Doubles {
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let p = 0; p < k; p++) {
        c[i * n + j]! += a[transposeA ? p * m + i : i * k + p]! * b[transposeB ? j * k + p : p * n + j]!;
      }
    }
  }
  return c;
}

function near(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  equal(actual.length, expected.length);
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i]! - expected[i]!);
    ok(difference <= tolerance, `element ${i}: ${actual[i]}, not ${expected[i]}`);
  }
}

// 70 and 131 are more than one panel and one block, and multiples of no tile.
const SIZES = [1, 2, 5, 64, 70, 131];

for (const algebra of backends) {
  describe(`linear algebra by ${algebra.name}`, () => {
    it("multiply() is the definition, transposed or not, in both precisions", async () => {
      const [m, n, k] = [67, 259, 131];
      const a = random(m * k, 1);
      const b = random(k * n, 2);
      for (const transposeA of [false, true]) {
        for (const transposeB of [false, true]) {
          const expected = product(a, b, m, n, k, { transposeA, transposeB });
          const views = <A extends FloatsOrDoubles>(a: A, b: A, c: A) =>
            [
              transposeA ? matrix(a, k, m) : matrix(a, m, k),
              transposeB ? matrix(b, n, k) : matrix(b, k, n),
              matrix(c, m, n),
            ] as const;
          const c64 = new Float64Array(m * n).fill(NaN);
          await algebra.multiply(...views(a, b, c64), { transposeA, transposeB });
          near(c64, expected, 1e-12);
          const c32 = new Float32Array(m * n).fill(NaN);
          await algebra.multiply(...views(Float32Array.from(a), Float32Array.from(b), c32), { transposeA, transposeB });
          near(c32, expected, 2e-5);
        }
      }
    });

    it("multiply() adds to a block of a larger matrix and touches nothing else", async () => {
      const whole = new Float32Array(4 * 5).fill(1);
      const a = new Float32Array([1, 2]);
      const b = new Float32Array([10, 20, 30]);
      const block = matrix(whole, 2, 3, { offset: 6, stride: 5 });
      await algebra.multiply(matrix(a, 2, 1), matrix(b, 1, 3), block, { alpha: -1, beta: 1 });
      deepEqual([...whole], [1, 1, 1, 1, 1, 1, -9, -19, -29, 1, 1, -19, -39, -59, 1, 1, 1, 1, 1, 1]);
    });

    it("multiply() refuses shapes that do not fit", async () => {
      const data = new Float64Array(6);
      await rejects(
        algebra.multiply(matrix(data, 2, 3), matrix(data, 2, 3), matrix(new Float64Array(4), 2, 2)),
        /^RangeError: Cannot multiply \[2, 3\] by \[2, 3\] into \[2, 2\]/,
      );
      await rejects(
        algebra.multiply(matrix(data, 3, 3), matrix(data, 3, 2), matrix(data, 3, 2)),
        /^RangeError: Cannot read A as \[3, 3\] with stride 3: it has 6 elements/,
      );
    });

    it("gram() accumulates AᵀA, symmetric to the bit", async () => {
      const [rows, columns] = [37, 131];
      const a = random(rows * columns, 3);
      const c = new Float64Array(columns * columns);
      await algebra.gram(matrix(a, rows, columns), matrix(c, columns, columns));
      await algebra.gram(matrix(a, rows, columns), matrix(c, columns, columns), { beta: 1 });
      near(c, product(a, a, columns, columns, rows, { transposeA: true }).map((value) => 2 * value), 1e-12);
      for (let i = 0; i < columns; i++) {
        for (let j = 0; j < i; j++) equal(c[i * columns + j], c[j * columns + i]);
      }
    });

    for (const n of SIZES) {
      it(`cholesky() of order ${n} multiplies back and has zeros above the diagonal`, async () => {
        const symmetric = positiveDefinite(n, n);
        const factor = symmetric.slice();
        await algebra.cholesky(factor, n);
        near(product(factor, factor, n, n, n, { transposeB: true }), symmetric, 1e-12 * n);
        for (let i = 0; i < n; i++) ok(factor.subarray(i * n + i + 1, (i + 1) * n).every((value) => value === 0));
      });

      it(`invertLower() of order ${n} gives the identity when multiplied back`, async () => {
        const lower = positiveDefinite(n, n + 1);
        await algebra.cholesky(lower, n);
        const inverse = lower.slice();
        await algebra.invertLower(inverse, n);
        const identity = Float64Array.from({ length: n * n }, (_, i) => i % (n + 1) === 0 ? 1 : 0);
        near(product(lower, inverse, n, n, n), identity, 1e-9);
        for (let i = 0; i < n; i++) ok(inverse.subarray(i * n + i + 1, (i + 1) * n).every((value) => value === 0));
      });

      it(`symmetricEigen() of order ${n} diagonalizes, descending, with orthonormal vectors of fixed sign`, async () => {
        const symmetric = positiveDefinite(n, n + 2);
        const before = symmetric.slice();
        const { values, vectors } = await algebra.symmetricEigen(symmetric, n);
        deepEqual(symmetric, before);
        const left = product(symmetric, vectors, n, n, n);
        near(left, vectors.map((value, i) => value * values[i % n]!), 1e-11 * n);
        const identity = Float64Array.from({ length: n * n }, (_, i) => i % (n + 1) === 0 ? 1 : 0);
        near(product(vectors, vectors, n, n, n, { transposeA: true }), identity, 1e-12);
        for (let k = 1; k < n; k++) ok(values[k - 1]! >= values[k]!);
        const plainly = await plain.symmetricEigen(symmetric, n);
        near(values, plainly.values, 1e-11 * n);
        near(vectors, plainly.vectors, 1e-7);
      });
    }

    it("cholesky() names the pivot at which a matrix stops being positive definite", async () => {
      const symmetric = new Float64Array([4, 0, 0, 2, 5, 0, 2, 5, 1]);
      await rejects(algebra.cholesky(symmetric, 3), /^RangeError: Cannot factor .* not positive definite at pivot 2$/);
    });

    it("cholesky() refuses what is not a number", async () => {
      await rejects(
        algebra.cholesky(new Float64Array([1, 0, NaN, 1]), 2),
        /^RangeError: .* not positive definite at pivot 1/,
      );
    });

    it("invertLower() and symmetricEigen() refuse what they cannot do", async () => {
      await rejects(algebra.invertLower(new Float64Array([1, 0, 5, 0]), 2), /^RangeError: .* diagonal 1 is zero/);
      await rejects(algebra.symmetricEigen(new Float64Array([1, 0, Infinity, 1]), 2), /^RangeError: .* not finite/);
      await rejects(algebra.symmetricEigen(new Float64Array([1, 0, 0, NaN]), 2), /^RangeError: .* not finite/);
      await rejects(algebra.cholesky(new Float64Array(8), 3), /^RangeError: .* has 8 elements/);
    });

    it("symmetricEigen() reads the lower triangle alone", async () => {
      const [symmetric, half] = [positiveDefinite(5, 1), positiveDefinite(5, 1)];
      for (let row = 0; row < 5; row++) half.fill(NaN, row * 5 + row + 1, row * 5 + 5);
      deepEqual(await algebra.symmetricEigen(half, 5), await algebra.symmetricEigen(symmetric, 5));
    });
  });
}

describe("openLinearAlgebra()", () => {
  it("says what it computes with", () => {
    equal(plain.name, "plain TypeScript");
    for (const { name } of backends.slice(1)) match(name, /^OpenBLAS [\d.]+ \(\w+, 1 threads\)$/);
  });

  it("refuses a number of threads that is none", () => {
    throws(() => openLinearAlgebra({ threads: 0 }), /^RangeError: Cannot compute with 0 threads/);
  });
});
