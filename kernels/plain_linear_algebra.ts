import { canonicalEigen, type LinearAlgebra, matrix, mirrorLower } from "./matrix.ts";
import { packedProduct } from "./packed_product.ts";

/** Columns that are factored or inverted one by one, between products of blocks. */
const PANEL = 64;

/**
 * Linear algebra in TypeScript alone: for machines without OpenBLAS, and what it is tested against.
 *
 * Nearly all work is done by one blocked product in float64: order 1536 takes half a second to factor and as long again
 * to invert, about 12 times what OpenBLAS takes on one core with AVX-512.
 */
export function plainLinearAlgebra(): LinearAlgebra {
  return {
    name: "plain TypeScript",
    // deno-lint-ignore require-await -- shared interface: the other backend waits for a library
    async multiply(a, b, c, options) {
      packedProduct(a, b, c, options);
    },
    // deno-lint-ignore require-await
    async gram(a, c, options) {
      // Block rows of the lower triangle: half the work of the whole product.
      const size = a.columns;
      for (let top = 0; top < size; top += PANEL) {
        const bottom = Math.min(top + PANEL, size);
        const left = matrix(a.data, a.rows, bottom - top, { offset: top, stride: a.stride });
        const right = matrix(a.data, a.rows, bottom, { stride: a.stride });
        const target = matrix(c.data, bottom - top, bottom, { offset: top * c.stride, stride: c.stride });
        packedProduct(left, right, target, { ...options, transposeA: true });
      }
      mirrorLower(c.data, size, c.stride);
    },
    // deno-lint-ignore require-await
    async cholesky(symmetric, n) {
      for (let start = 0; start < n; start += PANEL) {
        const end = Math.min(start + PANEL, n);
        const below = matrix(symmetric, n - start, start, { offset: start * n, stride: n });
        const beside = matrix(symmetric, end - start, start, { offset: start * n, stride: n });
        const panel = matrix(symmetric, n - start, end - start, { offset: start * n + start, stride: n });
        if (start > 0) packedProduct(below, beside, panel, { alpha: -1, beta: 1, transposeB: true });
        factorPanel(symmetric, n, start, end);
      }
      for (let row = 0; row < n; row++) symmetric.fill(0, row * n + row + 1, (row + 1) * n);
    },
    // deno-lint-ignore require-await
    async invertLower(lower, n) {
      for (let start = 0; start < n; start += PANEL) {
        const end = Math.min(start + PANEL, n);
        invertTriangle(lower, n, start, end);
        if (start === 0) continue;
        // Rows [start, end) of the inverse: −(inverse of the diagonal block) · (these rows) · (inverse above them).
        const rows = end - start;
        const left = new Float64Array(rows * start);
        for (let column = 0; column < start; column += PANEL) {
          const width = Math.min(PANEL, start - column);
          packedProduct(
            matrix(lower, rows, start - column, { offset: start * n + column, stride: n }),
            matrix(lower, start - column, width, { offset: column * n + column, stride: n }),
            matrix(left, rows, width, { offset: column, stride: start }),
          );
        }
        packedProduct(
          matrix(lower, rows, rows, { offset: start * n + start, stride: n }),
          matrix(left, rows, start),
          matrix(lower, rows, start, { offset: start * n, stride: n }),
          { alpha: -1 },
        );
      }
    },
    // deno-lint-ignore require-await
    async symmetricEigen(symmetric, n) {
      const { diagonal, vectors } = jacobi(symmetric, n);
      return canonicalEigen(diagonal, (k) => vectors.subarray(k * n, (k + 1) * n));
    },
  };
}

/** Factors columns [start, end), from which the part explained by earlier columns has been taken. */
function factorPanel(a: Float64Array, n: number, start: number, end: number): void {
  for (let column = start; column < end; column++) {
    for (let row = column; row < n; row++) {
      let sum = a[row * n + column]!;
      for (let k = start; k < column; k++) sum -= a[row * n + k]! * a[column * n + k]!;
      if (row > column) a[row * n + column] = sum / a[column * n + column]!;
      else if (sum > 0 && sum < Infinity) a[row * n + column] = Math.sqrt(sum);
      else throw new RangeError(`Cannot factor a matrix of order ${n}: it is not positive definite at pivot ${column}`);
    }
  }
}

/** Inverts the lower triangular block on rows and columns [start, end). */
function invertTriangle(a: Float64Array, n: number, start: number, end: number): void {
  for (let row = start; row < end; row++) {
    const inverse = 1 / a[row * n + row]!;
    for (let column = start; column < row; column++) {
      let sum = 0;
      for (let k = column; k < row; k++) sum += a[row * n + k]! * a[k * n + column]!;
      a[row * n + column] = -sum * inverse;
    }
    a[row * n + row] = inverse;
  }
}

/**
 * Cyclic Jacobi: plane rotations until nothing is left off the diagonal. Its small eigenvalues are as exact as the
 * matrix allows; a head's 128 × 128 takes some tens of milliseconds.
 *
 * @returns The diagonal, and eigenvectors as **rows** of `vectors`.
 * @see Golub and Van Loan, Matrix Computations, §8.5
 */
function jacobi(symmetric: Float64Array, n: number): { diagonal: Float64Array; vectors: Float64Array } {
  const a = symmetric.slice();
  mirrorLower(a as Float64Array<ArrayBuffer>, n);
  const vectors = new Float64Array(n * n);
  for (let i = 0; i < n; i++) vectors[i * n + i] = 1;
  const norm = Math.sqrt(a.reduce((sum, value) => sum + value * value, 0));
  for (let rotated = true; rotated;) {
    rotated = false;
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) {
        const off = a[p * n + q]!;
        // Below this the rotation would change neither eigenvalue nor vector.
        if (Math.abs(off) <= 1e-17 * norm) continue;
        rotated = true;
        const theta = (a[q * n + q]! - a[p * n + p]!) / (2 * off);
        const t = Math.sign(theta || 1) / (Math.abs(theta) + Math.hypot(theta, 1));
        const c = 1 / Math.hypot(t, 1);
        const s = t * c;
        for (let k = 0; k < n; k++) {
          const ap = a[p * n + k]!;
          const aq = a[q * n + k]!;
          a[p * n + k] = c * ap - s * aq;
          a[q * n + k] = s * ap + c * aq;
          const vp = vectors[p * n + k]!;
          const vq = vectors[q * n + k]!;
          vectors[p * n + k] = c * vp - s * vq;
          vectors[q * n + k] = s * vp + c * vq;
        }
        for (let k = 0; k < n; k++) {
          const ap = a[k * n + p]!;
          const aq = a[k * n + q]!;
          a[k * n + p] = c * ap - s * aq;
          a[k * n + q] = s * ap + c * aq;
        }
        a[p * n + q] = 0;
        a[q * n + p] = 0;
      }
    }
  }
  return { diagonal: Float64Array.from({ length: n }, (_, i) => a[i * n + i]!), vectors };
}
