/**
 * Orders of channels: `order[place]` is the channel that comes to that place, most important first. Equal scores keep
 * their original order, so that an order does not depend on how it was sorted.
 */

/** Places by descending score. @throws {RangeError} If a score is not a number. */
export function descendingOrder(scores: ArrayLike<number>): number[] {
  const order = Array.from({ length: scores.length }, (_, channel) => channel);
  const wrong = order.find((channel) => Number.isNaN(scores[channel]));
  if (wrong !== undefined) throw new RangeError(`Cannot sort channels: the score of channel ${wrong} is not a number`);
  return order.sort((a, b) => compare(scores[b]!, scores[a]!) || a - b);
}

/** Infinities compare as equal, which a difference would not. */
function compare(a: number, b: number): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A shuffled order, the control that ignores importance. @param random Uniform in [0, 1). */
export function randomOrder(length: number, random: () => number): number[] {
  const order = Array.from({ length }, (_, channel) => channel);
  for (let last = length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [order[last], order[other]] = [order[other]!, order[last]!];
  }
  return order;
}
