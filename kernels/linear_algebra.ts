import type { FloatsOrDoubles, LinearAlgebra, Matrix } from "./matrix.ts";
import { openOpenBlas } from "./openblas.ts";
import { plainLinearAlgebra } from "./plain_linear_algebra.ts";

export interface LinearAlgebraOptions {
  /** "auto": OpenBLAS where it is installed, else plain TypeScript, which gives the same results to rounding. */
  readonly backend?: "auto" | "openblas" | "plain";
  /** Threads of OpenBLAS. Default: as many as it finds processors. */
  readonly threads?: number;
}

/**
 * Opens the linear algebra of this machine.
 *
 * @throws {TypeError} If OpenBLAS is asked for and not installed.
 */
export function openLinearAlgebra({ backend = "auto", threads }: LinearAlgebraOptions = {}): LinearAlgebra {
  if (threads !== undefined && !(Number.isInteger(threads) && threads > 0)) {
    throw new RangeError(`Cannot compute with ${threads} threads: it must be a positive integer`);
  }
  if (backend === "plain") return checkingShapes(plainLinearAlgebra());
  const native = openOpenBlas(threads);
  if (native === null && backend === "openblas") {
    throw new TypeError("Cannot open OpenBLAS: no library of that name with 32-bit integers and LAPACK is installed");
  }
  return checkingShapes(native ?? plainLinearAlgebra());
}

/** Refuses shapes that do not fit before they reach code that would read past an array. */
function checkingShapes(algebra: LinearAlgebra): LinearAlgebra {
  return {
    name: algebra.name,
    async multiply(a, b, c, options = {}) {
      checkMatrix("A", a);
      checkMatrix("B", b);
      checkMatrix("C", c);
      const [m, k] = options.transposeA ? [a.columns, a.rows] : [a.rows, a.columns];
      const [inner, n] = options.transposeB ? [b.columns, b.rows] : [b.rows, b.columns];
      if (inner !== k || c.rows !== m || c.columns !== n) {
        throw new RangeError(
          `Cannot multiply [${m}, ${k}] by [${inner}, ${n}] into [${c.rows}, ${c.columns}]: the shapes do not fit`,
        );
      }
      // Nothing to fill; BLAS would complain about strides of zero.
      if (m > 0 && n > 0) await algebra.multiply(a, b, c, options);
    },
    async gram(a, c, options) {
      checkMatrix("A", a);
      checkMatrix("C", c);
      if (c.rows !== a.columns || c.columns !== a.columns) {
        throw new RangeError(
          `Cannot put the Gram matrix of [${a.rows}, ${a.columns}] into [${c.rows}, ${c.columns}]: ` +
            "the shapes do not fit",
        );
      }
      await algebra.gram(a, c, options);
    },
    async cholesky(symmetric, n) {
      checkSquare("factor", symmetric, n);
      await algebra.cholesky(symmetric, n);
    },
    async invertLower(lower, n) {
      checkSquare("invert", lower, n);
      for (let i = 0; i < n; i++) {
        if (lower[i * n + i] === 0) throw new RangeError(`Cannot invert a triangular matrix: diagonal ${i} is zero`);
      }
      await algebra.invertLower(lower, n);
    },
    async symmetricEigen(symmetric, n) {
      checkSquare("decompose", symmetric, n);
      for (let row = 0; row < n; row++) {
        if (symmetric.subarray(row * n, row * n + row + 1).every(Number.isFinite)) continue;
        throw new RangeError(`Cannot decompose a symmetric [${n}, ${n}]: an element is not finite`);
      }
      return await algebra.symmetricEigen(symmetric, n);
    },
  };
}

function checkMatrix(letter: string, { data, rows, columns, stride }: Matrix<FloatsOrDoubles>): void {
  const needed = rows === 0 ? 0 : (rows - 1) * stride + columns;
  if (stride < Math.max(1, columns) || data.length < needed) {
    throw new RangeError(
      `Cannot read ${letter} as [${rows}, ${columns}] with stride ${stride}: it has ${data.length} elements`,
    );
  }
}

function checkSquare(verb: string, data: FloatsOrDoubles, n: number): void {
  if (n < 1 || data.length !== n * n) {
    throw new RangeError(`Cannot ${verb} [${n}, ${n}]: the array has ${data.length} elements`);
  }
}
