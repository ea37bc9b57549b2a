import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";

/** Seeded draws from the distributions that traces are made of. */
export class RandomDraws {
  readonly #generator: ReturnType<typeof xoroshiro128plus>;

  constructor(seed: number) {
    this.#generator = xoroshiro128plus(seed);
  }

  /** Uniform in (0, 1]: its logarithm is finite. */
  uniform(): number {
    return 1 - uniformFloat64(this.#generator);
  }

  /** An integer from 0 to below `end`. */
  integer(end: number): number {
    return Math.floor(uniformFloat64(this.#generator) * end);
  }

  /** Mean 0 and variance 1, by Box and Muller. */
  normal(): number {
    return Math.sqrt(-2 * Math.log(this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /**
   * Gamma with scale 1 and mean `shape`.
   *
   * @see Marsaglia and Tsang, A simple method for generating gamma variables, 2000; below 1 their section 6
   */
  gamma(shape: number): number {
    if (shape < 1) return this.gamma(shape + 1) * this.uniform() ** (1 / shape);
    const d = shape - 1 / 3;
    const c = 1 / Math.sqrt(9 * d);
    while (true) {
      const x = this.normal();
      const v = (1 + c * x) ** 3;
      if (v > 0 && Math.log(this.uniform()) < x * x / 2 + d - d * v + d * Math.log(v)) return d * v;
    }
  }
}
