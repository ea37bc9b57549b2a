/**
 * The level of a prepared pruning rate.
 *
 * @throws {RangeError} Listing the prepared rates, if it is none of them.
 */
export function levelOf(levels: readonly { readonly pruningRate: number }[], pruningRate: number): number {
  const level = levels.findIndex((prepared) => Math.abs(prepared.pruningRate - pruningRate) < 1e-9);
  if (level >= 0) return level;
  const rates = levels.map((prepared) => prepared.pruningRate).join(", ");
  throw new RangeError(`Cannot run at pruning rate ${pruningRate}: prepared are ${rates}`);
}
