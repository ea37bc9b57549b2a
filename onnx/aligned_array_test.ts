import { describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { alignedFloats, wishForHugePages } from "./aligned_array.ts";

describe("alignedFloats()", () => {
  it("gives so many zeros that begin on a line of the processor's cache", () => {
    for (const count of [1, 15, 1000, 1 << 20]) {
      const array = alignedFloats(count);
      equal(array.length, count);
      equal(BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(array))) % 64n, 0n);
      ok(array.every((value) => value === 0));
    }
  });
});

describe("wishForHugePages()", () => {
  it("leaves what an array holds, large or small", () => {
    for (const count of [100, 1 << 21]) {
      const array = alignedFloats(count).fill(1);
      wishForHugePages(array);
      ok(array.every((value) => value === 1));
    }
  });
});
