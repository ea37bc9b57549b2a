import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";

/** Uniform, normal and Gamma numbers of a seed. */
export class Draws {
  readonly #generator;

  constructor(seed: number) {
    this.#generator = xoroshiro128plus(seed);
  }

  uniform(): number {
    return ((this.#generator.next() >>> 0) + 0.5) / 2 ** 32;
  }

  normal(): number {
    return Math.sqrt(-2 * Math.log(this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /** Of a mean of 1. @see Marsaglia and Tsang, A simple method for generating gamma variables, 2000 */
  gamma(shape: number): number {
    const d = shape + 1 - 1 / 3;
    while (true) {
      const x = this.normal();
      const v = (1 + x / Math.sqrt(9 * d)) ** 3;
      if (v > 0 && Math.log(this.uniform()) < x * x / 2 + d - d * v + d * Math.log(v)) {
        return d * v * this.uniform() ** (1 / shape) / shape;
      }
    }
  }
}
