/** No module loses more than this share of its channels (uniql.md §4). */
const MAX_MODULE_RATE = 0.85;

/**
 * Shares a global pruning rate out between modules: the more a module's block changes what passes through it, the less
 * is taken from it, `rate ∝ softmax(−score / temperature)` (uniql.md §4).
 *
 * What the limit of 0.85 keeps from being taken from one module is taken from the others in the same proportions, until
 * the mean is the global rate. (The reference implementation lets it go, and prunes less than it says.) Every module's
 * rate grows with the global one, so what is kept at a rate is nested in what is kept at a smaller one.
 *
 * @param scores Block influence, one per module.
 * @param pruningRate Mean of the result, in [0, 0.85].
 * @param temperature ε, above zero; the smaller, the more the scores matter.
 * @throws {RangeError} If a parameter is out of its range, or a score is not finite.
 */
export function layerRates(scores: readonly number[], pruningRate: number, temperature: number): number[] {
  checkRate(pruningRate);
  if (!(temperature > 0)) {
    throw new RangeError(`Cannot allocate rates at temperature ${temperature}: above 0 is wanted`);
  }
  const wrong = scores.findIndex((score) => !Number.isFinite(score));
  if (wrong !== -1) throw new RangeError(`Cannot allocate rates: the score of module ${wrong} is ${scores[wrong]}`);
  const rates = new Array<number>(scores.length).fill(MAX_MODULE_RATE);
  let free = scores.map((_, module) => module);
  while (free.length > 0) {
    // Relative to the least score that is left, so that not all weights vanish.
    const least = Math.min(...free.map((module) => scores[module]!));
    const weight = (module: number) => Math.exp((least - scores[module]!) / temperature);
    const budget = scores.length * pruningRate - (scores.length - free.length) * MAX_MODULE_RATE;
    const perWeight = budget / free.reduce((sum, module) => sum + weight(module), 0);
    const within = free.filter((module) => weight(module) * perWeight <= MAX_MODULE_RATE);
    if (within.length === free.length) {
      for (const module of free) rates[module] = weight(module) * perWeight;
      break;
    }
    free = within;
  }
  return rates;
}

/** The same rate for every module. */
export function uniformRates(modules: number, pruningRate: number): number[] {
  checkRate(pruningRate);
  return new Array<number>(modules).fill(pruningRate);
}

function checkRate(pruningRate: number): void {
  if (!(pruningRate >= 0 && pruningRate <= MAX_MODULE_RATE)) {
    throw new RangeError(`Cannot allocate a pruning rate of ${pruningRate}: it must be in [0, ${MAX_MODULE_RATE}]`);
  }
}
