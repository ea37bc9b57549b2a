/**
 * Orthonormal Hadamard matrices: all entries ±1/√n, so that a rotation by one spreads every outlier over all channels.
 *
 * An order is `2^k · m`, for the Kronecker product of a power of two, applied by butterflies, and a matrix of order m by
 * Paley. That covers the hidden sizes of common models: 576, 896, 960, 1536, 2048, 2560, 3072, 3584, 4096, 5120.
 */

/** Whether there is a construction for this order. */
export function supportsHadamard(order: number): boolean {
  return baseMatrix(order) !== null;
}

/**
 * The map `x ← H·x` on every row `[order]` of an array, in place. H depends on the order alone.
 *
 * A row takes `order · (k + m)` additions.
 *
 * @throws {RangeError} If there is no construction for this order.
 */
export function hadamardRotation(order: number): (rows: Float32Array | Float64Array) => void {
  const base = baseMatrix(order);
  if (base === null) {
    throw new RangeError(
      `Cannot build a Hadamard matrix of order ${order}: it is not a power of two times an order by Paley`,
    );
  }
  const scale = 1 / Math.sqrt(order);
  const row = new Float64Array(order);
  return (rows) => {
    if (rows.length % order !== 0) {
      throw new RangeError(`Cannot rotate ${rows.length} elements in rows of ${order}`);
    }
    for (let start = 0; start < rows.length; start += order) {
      multiplySegments(rows, start, base, row);
      butterflies(row, base.order);
      for (let i = 0; i < order; i++) rows[start + i] = row[i]! * scale;
    }
  };
}

interface SignMatrix {
  readonly order: number;
  /** `[order, order]`, ±1. */
  readonly signs: Int8Array;
}

/** The factor that is not a power of two, as small as possible. */
function baseMatrix(order: number): SignMatrix | null {
  if (!Number.isInteger(order) || order < 1) return null;
  let odd = order;
  while (odd % 2 === 0) odd /= 2;
  if (odd === 1) return { order: 1, signs: Int8Array.of(1) };
  // Beyond order 2, orders are multiples of 4.
  for (let m = 4 * odd; order % m === 0; m *= 2) {
    if (isPrime(m - 1)) return paleyOne(m - 1);
    if ((m / 2 - 1) % 4 === 1 && isPrime(m / 2 - 1)) return paleyTwo(m / 2 - 1);
  }
  return null;
}

/** Order q + 1 for a prime q ≡ 3 (mod 4): the identity plus a skew conference matrix. */
function paleyOne(q: number): SignMatrix {
  const order = q + 1;
  const entry = conferenceMatrix(q, -1);
  return signMatrix(order, (row, column) => row === column ? 1 : entry(row, column));
}

/** Order 2(q + 1) for a prime q ≡ 1 (mod 4): each entry of a symmetric conference matrix becomes a 2 × 2 block. */
function paleyTwo(q: number): SignMatrix {
  const entry = conferenceMatrix(q, 1);
  return signMatrix(2 * (q + 1), (row, column) => {
    const value = entry(row >> 1, column >> 1);
    const [low, right] = [row % 2 === 1, column % 2 === 1];
    if (value === 0) return low || right ? -1 : 1;
    return low && right ? -value : value;
  });
}

/**
 * Entry (i, j) of a conference matrix of order q + 1: zero on the diagonal, ±1 elsewhere, rows orthogonal. Its core says
 * whether `i − j` is a square modulo q.
 *
 * @param corner Sign of the first column: −1 makes it skew (q ≡ 3), 1 symmetric (q ≡ 1).
 */
function conferenceMatrix(q: number, corner: 1 | -1): (row: number, column: number) => number {
  const squares = new Set(Array.from({ length: q - 1 }, (_, i) => (i + 1) ** 2 % q));
  return (row, column) => {
    if (row === column) return 0;
    if (row === 0) return 1;
    if (column === 0) return corner;
    return squares.has((row - column + q) % q) ? 1 : -1;
  };
}

function signMatrix(order: number, entry: (row: number, column: number) => number): SignMatrix {
  return {
    order,
    signs: Int8Array.from({ length: order * order }, (_, at) => entry(Math.floor(at / order), at % order)),
  };
}

/** `out ← rows[start…]`, each segment of the base's order multiplied by it. */
function multiplySegments(
  rows: Float32Array | Float64Array,
  start: number,
  { order, signs }: SignMatrix,
  out: Float64Array,
): void {
  for (let segment = 0; segment < out.length; segment += order) {
    for (let i = 0; i < order; i++) {
      let sum = 0;
      for (let j = 0; j < order; j++) sum += signs[i * order + j]! * rows[start + segment + j]!;
      out[segment + i] = sum;
    }
  }
}

/** Sylvester's matrix across segments: sums and differences of segments at distance 1, 2, 4 … */
function butterflies(row: Float64Array, segment: number): void {
  for (let half = segment; half < row.length; half *= 2) {
    for (let start = 0; start < row.length; start += 2 * half) {
      for (let i = start; i < start + half; i++) {
        const upper = row[i]!;
        const lower = row[i + half]!;
        row[i] = upper + lower;
        row[i + half] = upper - lower;
      }
    }
  }
}

function isPrime(value: number): boolean {
  if (value < 2) return false;
  for (let divisor = 2; divisor * divisor <= value; divisor++) if (value % divisor === 0) return false;
  return true;
}
