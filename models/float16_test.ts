import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal } from "node:assert/strict";
import { float32FromBfloat16, float32FromFloat16 } from "./float16.ts";

describe("float32FromFloat16()", () => {
  it("is exact for all finite halves", () => {
    const finite = Uint16Array.from({ length: 65536 }, (_, bits) => bits).filter((bits) => (bits & 0x7c00) !== 0x7c00);
    const expected = Float32Array.from(finite, (bits) => {
      const [exponent, fraction] = [(bits >> 10) & 0x1f, bits & 0x3ff];
      const magnitude = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
      return bits & 0x8000 ? -magnitude : magnitude;
    });
    deepEqual(float32FromFloat16(finite), expected);
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
