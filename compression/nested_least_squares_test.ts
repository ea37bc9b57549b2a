import { describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { matrix } from "../kernels/matrix.ts";
import type { Floats } from "../models/floats.ts";
import { nestedLeastSquares } from "./nested_least_squares.ts";
import { randomNumbers } from "./random_numbers.ts";

const algebra = openLinearAlgebra({ backend: "plain" });
const [TOKENS, ROWS, K] = [300, 4, 12];
/** Three levels: columns that each of them keeps, and its weight. */
const LEVELS = [{ width: 12, weight: 0.5 }, { width: 8, weight: 0.3 }, { width: 5, weight: 0.2 }];
const KEPT = Array.from(
  { length: K },
  (_, column) => LEVELS.reduce((sum, { width, weight }) => sum + (column < width ? weight : 0), 0),
);

const random = randomNumbers(4);
const draws = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
const weight = draws(ROWS * K);
/** Inputs that say something of each other. */
const x = (() => {
  const [own, shared] = [draws(TOKENS * K), draws(TOKENS * 3)];
  return own.map((value, at) => value + 1.5 * shared[3 * Math.floor(at / K) + at % 3]!);
})();
const gram = new Float32Array(K * K);
await algebra.gram(matrix(x, TOKENS, K), matrix(gram, K, K));

/** `Σ_l p_l ‖X·M_l·ŵᵀ − X·wᵀ‖²`, by its definition. */
function cost(of: Floats): number {
  let sum = 0;
  for (const { width, weight: share } of LEVELS) {
    for (let token = 0; token < TOKENS; token++) {
      for (let row = 0; row < ROWS; row++) {
        let missing = 0;
        for (let i = 0; i < K; i++) {
          missing += x[token * K + i]! * ((i < width ? of[row * K + i]! : 0) - weight[row * K + i]!);
        }
        sum += share * missing ** 2;
      }
    }
  }
  return sum;
}

describe("nestedLeastSquares()", () => {
  it("is where the cost of all levels together is least: it rises in every direction", async () => {
    const { weight: found } = await nestedLeastSquares(algebra, weight, { gram, kept: KEPT, dampening: 0 });
    const least = cost(found);
    ok(least < 0.8 * cost(weight), `${cost(weight)} became ${least}`);
    for (let at = 0; at < found.length; at++) {
      for (const step of [-1e-2, 1e-2]) {
        const moved = found.slice();
        moved[at]! += step;
        ok(cost(moved) > least, `element ${at}, step ${step}`);
      }
    }
  });

  it("weighs errors by what they cost over the levels", async () => {
    const { weight: found, gram: weighed } = await nestedLeastSquares(algebra, weight, {
      gram,
      kept: KEPT,
      dampening: 0,
    });
    const error = draws(ROWS * K).map((value) => 0.1 * value);
    let expected = 0;
    for (let row = 0; row < ROWS; row++) {
      for (let i = 0; i < K; i++) {
        for (let j = 0; j < K; j++) expected += error[row * K + i]! * weighed[i * K + j]! * error[row * K + j]!;
      }
    }
    const rise = cost(found.map((value, at) => value + error[at]!)) - cost(found);
    ok(Math.abs(rise / expected - 1) < 1e-3, `${rise}, expected ${expected}`);
  });

  it("changes nothing where only the whole model counts, and little where inputs say nothing of each other", async () => {
    const only = new Array<number>(K).fill(0.7);
    equal((await nestedLeastSquares(algebra, weight, { gram, kept: only, dampening: 0.01 })).weight, weight);
    const diagonal = gram.map((value, at) => at % (K + 1) === 0 ? value : 0);
    const { weight: found } = await nestedLeastSquares(algebra, weight, { gram: diagonal, kept: KEPT, dampening: 0 });
    found.forEach((value, at) => ok(Math.abs(value - weight[at]!) < 1e-6, `${value}, was ${weight[at]}`));
  });

  it("leaves the weights of inputs that are never anything but zero", async () => {
    const silent = gram.map((value, at) => at % K === 3 || Math.floor(at / K) === 3 ? 0 : value);
    const { weight: found } = await nestedLeastSquares(algebra, weight, { gram: silent, kept: KEPT, dampening: 0.01 });
    for (let row = 0; row < ROWS; row++) equal(found[row * K + 3], weight[row * K + 3]);
  });
});
