import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal } from "node:assert/strict";
import { float16FromFloat32, float32FromBfloat16, float32FromFloat16 } from "./float16.ts";

describe("float16FromFloat32()", () => {
  it("rounds to nearest, ties to even, and overflows to infinity", () => {
    const halfway = 1 + 2 ** -11;
    deepEqual(
      [...float16FromFloat32(new Float32Array([1, halfway, halfway + 2 ** -10, -65504, 65520, 2 ** -24]))],
      [0x3c00, 0x3c00, 0x3c02, 0xfbff, 0x7c00, 0x0001],
    );
  });

  it("is undone by float32FromFloat16() for all finite halves", () => {
    const finite = Uint16Array.from({ length: 65536 }, (_, bits) => bits).filter((bits) => (bits & 0x7c00) !== 0x7c00);
    deepEqual(float16FromFloat32(float32FromFloat16(finite)), finite);
  });
});

describe("float32FromBfloat16()", () => {
  it("makes the bits the upper half of a float32", () => {
    const values = float32FromBfloat16(new Uint16Array([0x3f80, 0xc020, 0x7f80, 0x8000]));
    deepEqual([...values], [1, -2.5, Infinity, -0]);
  });

  it("fills the array that it is handed", () => {
    const out = new Float32Array(2);
    equal(float32FromBfloat16(new Uint16Array([0x3f80, 0]), out), out);
    deepEqual([...out], [1, 0]);
  });
});
