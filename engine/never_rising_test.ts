import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { neverRising } from "./never_rising.ts";

describe("neverRising()", () => {
  it("leaves what never rises, and pools what does", () => {
    deepEqual(neverRising([5, 5, 3]), [5, 5, 3]);
    deepEqual(neverRising([1, 2, 3]), [2, 2, 2]);
    deepEqual(neverRising([9, 2, 4, 6, 1]), [9, 4, 4, 4, 1]);
    deepEqual(neverRising([3, 4, 8]), [5, 5, 5]);
  });
});
