import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";

/** Draws to throw away: the first ones of neighbouring seeds resemble each other. */
const WARM_UP = 16;

/**
 * A source of random numbers, uniform in [0, 1), for one purpose: what it gives follows from the seed, the purpose and the
 * index alone, so that an interrupted run goes on as if it had not been.
 *
 * @param index A step, an epoch; below 2³².
 */
export function randomFor(
  seed: number,
  purpose: "weights" | "windows" | "recast" | "recovery",
  index = 0,
): () => number {
  const kind = { weights: 1, windows: 2, recast: 3, recovery: 4 }[purpose];
  const mixed = Math.imul(seed | 0, 0x9e3779b1) ^ Math.imul(index | 0, 0x85ebca6b) ^ Math.imul(kind, 0xc2b2ae35);
  const generator = xoroshiro128plus(mixed);
  for (let i = 0; i < WARM_UP; i++) uniformFloat64(generator);
  return () => uniformFloat64(generator);
}
