/**
 * Writes the indices of the `count` largest values to the front of `out`, in no order; of equal values the earlier
 * ones. One pass over a heap of `count` indices, whose top is the one to lose next: after the first few, nearly every
 * value is turned away by one comparison.
 *
 * @returns How many were written: `count`, or all that there are.
 */
export function selectLargest(values: Float32Array, count: number, out: Int32Array): number {
  const size = Math.min(count, values.length);
  const losesTo = (a: number, b: number) => values[a]! < values[b]! || (values[a]! === values[b]! && a > b);
  const siftDown = (start: number) => {
    const index = out[start]!;
    let place = start;
    for (let child = 2 * place + 1; child < size; child = 2 * place + 1) {
      if (child + 1 < size && losesTo(out[child + 1]!, out[child]!)) child++;
      if (!losesTo(out[child]!, index)) break;
      out[place] = out[child]!;
      place = child;
    }
    out[place] = index;
  };

  for (let i = 0; i < size; i++) out[i] = i;
  for (let i = (size >> 1) - 1; i >= 0; i--) siftDown(i);
  if (size === 0) return 0;
  let least = values[out[0]!]!;
  for (let index = size; index < values.length; index++) {
    if (values[index]! <= least) continue;
    out[0] = index;
    siftDown(0);
    least = values[out[0]!]!;
  }
  return size;
}
