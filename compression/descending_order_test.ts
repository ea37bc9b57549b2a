import { describe, it } from "@std/testing/bdd";
import { deepEqual, notDeepEqual, throws } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { descendingOrder, randomOrder } from "./descending_order.ts";

describe("descendingOrder()", () => {
  it("puts the greatest score first and keeps equal ones in their order", () => {
    deepEqual(descendingOrder([1, 3, 2, 3, -Infinity, Infinity, Infinity]), [5, 6, 1, 3, 2, 0, 4]);
  });

  it("refuses a score that is not a number", () => {
    throws(() => descendingOrder([1, NaN]), /^RangeError: .* the score of channel 1 is not a number$/);
  });
});

describe("randomOrder()", () => {
  const shuffled = (seed: number) => {
    const generator = xoroshiro128plus(seed);
    return randomOrder(50, () => uniformFloat64(generator));
  };

  it("is a permutation that follows from the seed", () => {
    deepEqual(shuffled(1).toSorted((a, b) => a - b), Array.from({ length: 50 }, (_, i) => i));
    deepEqual(shuffled(1), shuffled(1));
    notDeepEqual(shuffled(1), shuffled(2));
  });
});
