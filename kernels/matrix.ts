/** What the linear algebra of `compression/` needs. All matrices are row-major. */

export type FloatsOrDoubles = Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

/** A matrix, or a block of a larger one. */
export interface Matrix<A extends FloatsOrDoubles = FloatsOrDoubles> {
  /** Element (row, column) is at `row · stride + column`. */
  readonly data: A;
  readonly rows: number;
  readonly columns: number;
  readonly stride: number;
}

/** Views an array, from `offset` on, as a matrix; `stride` is the width of the matrix that it is a block of. */
export function matrix<A extends FloatsOrDoubles>(
  data: A,
  rows: number,
  columns: number,
  { offset = 0, stride = columns }: { offset?: number; stride?: number } = {},
): Matrix<A> {
  return { data: data.subarray(offset) as A, rows, columns, stride };
}

export interface ProductOptions {
  /** Default 1. */
  readonly alpha?: number;
  /** Default 0: what C held is not read. */
  readonly beta?: number;
  /** Read A as its transpose. Default false. */
  readonly transposeA?: boolean;
  /** Read B as its transpose. Default false. */
  readonly transposeB?: boolean;
}

export interface SymmetricEigen {
  /** `[n]`, descending. */
  readonly values: Float64Array<ArrayBuffer>;
  /**
   * `[n, n]`, orthonormal eigenvectors as columns. Signs are fixed: the first component of at least 0.6 times the
   * greatest magnitude is positive. (0.6 and not 1, because equal magnitudes are common and rounding would choose.)
   */
  readonly vectors: Float64Array<ArrayBuffer>;
}

/**
 * Dense linear algebra. Every function checks its shapes and throws a `RangeError` that names them; matrices that it
 * changes must not overlap the others, and nothing may touch them until the promise settles.
 */
export interface LinearAlgebra {
  /** What computes, for start-up lines and reports: a library with its version and threads, or plain TypeScript. */
  readonly name: string;
  /** `C ← alpha · op(A) · op(B) + beta · C`, in the precision of the three. */
  multiply<A extends FloatsOrDoubles>(
    a: Matrix<A>,
    b: Matrix<A>,
    c: Matrix<A>,
    options?: ProductOptions,
  ): Promise<void>;
  /** `C ← alpha · Aᵀ · A + beta · C`, where C is symmetric; both triangles are written. */
  gram<A extends FloatsOrDoubles>(
    a: Matrix<A>,
    c: Matrix<A>,
    options?: Pick<ProductOptions, "alpha" | "beta">,
  ): Promise<void>;
  /**
   * Overwrites the symmetric positive definite `[n, n]` by its lower Cholesky factor, zeros above the diagonal. Only
   * the lower triangle is read.
   *
   * @throws {RangeError} If it is not positive definite; the message names the pivot. The matrix is then unusable.
   */
  cholesky(symmetric: Float64Array<ArrayBuffer>, n: number): Promise<void>;
  /**
   * Overwrites a lower triangular `[n, n]` with zeros above the diagonal by its inverse.
   *
   * @throws {RangeError} If an element of the diagonal is zero.
   */
  invertLower(lower: Float64Array<ArrayBuffer>, n: number): Promise<void>;
  /**
   * Eigenvalues and eigenvectors of a symmetric `[n, n]`, of which only the lower triangle is read.
   *
   * @throws {RangeError} If an element of it is not finite.
   */
  symmetricEigen(symmetric: Float64Array<ArrayBuffer>, n: number): Promise<SymmetricEigen>;
}

/** Puts eigenpairs into the order and signs that `SymmetricEigen` promises. `vectorOf(k)` is any unit eigenvector. */
export function canonicalEigen(
  values: ArrayLike<number>,
  vectorOf: (k: number) => ArrayLike<number>,
): SymmetricEigen {
  const n = values.length;
  const order = Array.from({ length: n }, (_, k) => k).sort((a, b) => values[b]! - values[a]! || a - b);
  const vectors = new Float64Array(n * n);
  order.forEach((from, to) => {
    const vector = vectorOf(from);
    let greatest = 0;
    for (let i = 0; i < n; i++) greatest = Math.max(greatest, Math.abs(vector[i]!));
    let lead = 0;
    while (Math.abs(vector[lead]!) < 0.6 * greatest) lead++;
    const sign = vector[lead]! < 0 ? -1 : 1;
    for (let i = 0; i < n; i++) vectors[i * n + to] = sign * vector[i]!;
  });
  return { values: Float64Array.from(order, (k) => values[k]!), vectors };
}

/** Copies the lower triangle to the upper one. */
export function mirrorLower(data: FloatsOrDoubles, n: number, stride: number = n): void {
  // Tiles, because a column of a large matrix misses the cache at every row.
  const tile = 64;
  for (let top = 0; top < n; top += tile) {
    for (let left = 0; left <= top; left += tile) {
      for (let i = top; i < Math.min(top + tile, n); i++) {
        for (let j = left; j < Math.min(left + tile, i); j++) data[j * stride + i] = data[i * stride + j]!;
      }
    }
  }
}
