import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { selectLargest } from "./select_largest.ts";

const select = (values: Float32Array, count: number) => {
  const out = new Int32Array(values.length);
  return [...out.subarray(0, selectLargest(values, count, out))].sort((a, b) => a - b);
};

describe("selectLargest()", () => {
  it("selects what a full sort would, for every count", () => {
    const random = xoroshiro128plus(5);
    for (let round = 0; round < 20; round++) {
      const values = Float32Array.from({ length: 40 }, () => Math.floor(uniformFloat64(random) * 12));
      const sorted = [...values.keys()].sort((a, b) => values[b]! - values[a]! || a - b);
      for (let count = 0; count <= 41; count++) {
        deepEqual(select(values, count), sorted.slice(0, count).sort((a, b) => a - b));
      }
    }
  });
});
