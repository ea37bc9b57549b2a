/** Undoes an order: element `order[i]` of the result is `i`. */
export function inverseOrder(order: readonly number[]): number[] {
  const inverse = new Array<number>(order.length);
  order.forEach((from, at) => inverse[from] = at);
  return inverse;
}

/** Rows and columns of a symmetric `[n, n]` in another order. */
export function permuteSymmetric(
  matrix: Float32Array<ArrayBuffer>,
  order: readonly number[],
): Float32Array<ArrayBuffer> {
  const n = order.length;
  const permuted = new Float32Array(n * n);
  for (let row = 0; row < n; row++) {
    const from = order[row]! * n;
    for (let column = 0; column < n; column++) permuted[row * n + column] = matrix[from + order[column]!]!;
  }
  return permuted;
}
