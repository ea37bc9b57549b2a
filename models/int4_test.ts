import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, notDeepEqual, ok, throws } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { float32FromFloat16 } from "./float16.ts";
import {
  type BlockSize,
  dequantizeInt4,
  groupStartsOf,
  type Int4Codes,
  int4Scale,
  packInt4,
  reconstruct,
  roundToNearest,
  unpackInt4,
  ZERO_POINT,
} from "./int4.ts";

/** Sums of uniform numbers: nearly normal, as weights are. */
function weights(length: number, seed = 1): Float32Array<ArrayBuffer> {
  const random = xoroshiro128plus(seed);
  const uniform = () => uniformFloat64(random) - 0.5;
  return Float32Array.from({ length }, () => 0.1 * (uniform() + uniform() + uniform() + uniform()));
}

const outFeatures = 6;
const inFeatures = 100;

function quantized(blockSize: BlockSize, segments = [inFeatures]): Int4Codes {
  const groupStarts = groupStartsOf(segments, blockSize);
  return roundToNearest(weights(outFeatures * inFeatures), { outFeatures, inFeatures, groupStarts });
}

function scaleOf({ scales, groupStarts }: Int4Codes, row: number, column: number): number {
  const group = groupStarts.findLastIndex((start) => start <= column);
  return float32FromFloat16(scales)[row * groupStarts.length + group]!;
}

describe("int4Scale()", () => {
  it("is the least float16 that keeps the greatest weight within 7.5 scales", () => {
    for (const greatest of weights(200).map(Math.abs)) {
      const scale = int4Scale(greatest);
      const [bits] = new Uint16Array(Float16Array.of(scale).buffer);
      equal(float32FromFloat16(new Uint16Array([bits!]))[0], scale);
      ok(greatest / scale <= 7.5);
      ok(greatest / float32FromFloat16(new Uint16Array([bits! - 1]))[0]! > 7.5);
    }
  });

  it("is never zero: 1 for zeros, the least float16 for what is smaller", () => {
    equal(int4Scale(0), 1);
    equal(int4Scale(1e-30), 2 ** -24);
  });

  it("refuses what float16 cannot hold", () => {
    equal(int4Scale(65504 * 7.5), 65504);
    throws(() => int4Scale(65536 * 7.5), /^RangeError: Cannot quantize a weight of magnitude 491520/);
  });
});

describe("roundToNearest()", () => {
  it("errs by at most half a scale, with codes 0 to 15", () => {
    for (const blockSize of [32, 64, 128] as const) {
      const result = quantized(blockSize);
      const weight = weights(outFeatures * inFeatures);
      const rounded = reconstruct(result);
      for (let i = 0; i < weight.length; i++) {
        const scale = scaleOf(result, Math.floor(i / inFeatures), i % inFeatures);
        ok(Math.abs(weight[i]! - rounded[i]!) <= scale / 2);
        ok(result.codes[i]! <= 15);
      }
    }
  });

  it("uses the whole range: in each group a code is 7, -7 or -8", () => {
    const { codes, groupStarts } = quantized(32);
    for (let row = 0; row < outFeatures; row++) {
      groupStarts.forEach((start, group) => {
        const end = groupStarts[group + 1] ?? inFeatures;
        const inGroup = codes.subarray(row * inFeatures + start, row * inFeatures + end);
        ok([15, 1, 0].some((code) => inGroup.includes(code)));
      });
    }
  });

  it("rounds ties to even", () => {
    const weight = new Float32Array([7.5, 0.5, 1.5, -0.5, -1.5, -7.5]);
    const { codes, scales } = roundToNearest(weight, { outFeatures: 1, inFeatures: 6, groupStarts: [0] });
    deepEqual([...float32FromFloat16(scales)], [1]);
    deepEqual([...codes].map((code) => code - ZERO_POINT), [7, 0, 2, 0, -2, -8]);
  });

  it("gives a group of zeros code 8 and scale 1", () => {
    const { codes, scales } = roundToNearest(new Float32Array(64), {
      outFeatures: 2,
      inFeatures: 32,
      groupStarts: [0],
    });
    ok(codes.every((code) => code === ZERO_POINT));
    deepEqual([...float32FromFloat16(scales)], [1, 1]);
  });

  it("gives the same codes again for what they stand for, with the same scales", () => {
    const result = quantized(32);
    const rounded = reconstruct(result);
    const again = rounded.map((value, i) =>
      Math.round(value / scaleOf(result, Math.floor(i / inFeatures), i % inFeatures)) + ZERO_POINT
    );
    deepEqual([...again], [...result.codes]);
  });

  it("refuses what is not finite, and groups that do not cover the columns", () => {
    const shape = { outFeatures: 2, inFeatures: 2, groupStarts: [0] };
    throws(() => roundToNearest(new Float32Array([1, 2, NaN, 3]), shape), /^RangeError: Cannot quantize row 1: /);
    throws(() => roundToNearest(new Float32Array([1, 2, 3, Infinity]), shape), /^RangeError: Cannot quantize row 1: /);
    throws(() => roundToNearest(new Float32Array(4), { ...shape, groupStarts: [0, 2] }), /groups that start at 0, 2$/);
    throws(() => roundToNearest(new Float32Array(4), { ...shape, groupStarts: [1] }), /groups that start at 1$/);
  });
});

describe("packInt4()", () => {
  it("puts the earlier column into the low nibble and fills the last block with code 8", () => {
    const groupStarts = groupStartsOf([35], 32);
    const codes = Uint8Array.from({ length: 35 }, (_, column) => column % 16);
    const { codes: packed } = packInt4(
      { outFeatures: 1, inFeatures: 35, groupStarts, codes, scales: new Uint16Array(2) },
      { blockSize: 32 },
    );
    equal(packed.length, 32);
    deepEqual([...packed.subarray(0, 3)], [0x10, 0x32, 0x54]);
    deepEqual([...packed.subarray(16)], [0x10, 0x82, ...new Array(14).fill(0x88)]);
  });

  it("is undone by unpackInt4()", () => {
    for (const blockSize of [32, 64, 128] as const) {
      const result = quantized(blockSize);
      const packed = packInt4(result, { blockSize });
      deepEqual(unpackInt4(packed.codes, { outFeatures, inFeatures, blockSize }), result.codes);
      deepEqual(dequantizeInt4(packed, { outFeatures, inFeatures, blockSize }), reconstruct(result));
    }
  });

  it("of some rows is those rows, bit by bit", () => {
    const result = quantized(32);
    const all = packInt4(result, { blockSize: 32 });
    const some = packInt4(result, { blockSize: 32, rows: { start: 2, end: 5 } });
    const rowBytes = all.codes.length / outFeatures;
    deepEqual(some.codes, all.codes.slice(2 * rowBytes, 5 * rowBytes));
    deepEqual(some.scales, all.scales.slice(2 * 4, 5 * 4));
  });

  it("of a segment's columns stands for exactly the weights that the matrix stands for there", () => {
    const segments = [40, 60];
    const result = quantized(32, segments);
    const whole = reconstruct(result);
    let start = 0;
    for (const width of segments) {
      const shape = { outFeatures, inFeatures: width, blockSize: 32 } as const;
      const segment = dequantizeInt4(
        packInt4(result, { blockSize: 32, columns: { start, end: start + width } }),
        shape,
      );
      for (let row = 0; row < outFeatures; row++) {
        const from = row * inFeatures + start;
        deepEqual(segment.slice(row * width, (row + 1) * width), whole.slice(from, from + width));
      }
      start += width;
    }
  });

  it("refuses columns that are not a segment of blocks", () => {
    const result = quantized(32);
    for (const columns of [{ start: 16, end: 48 }, { start: 0, end: 40 }, { start: 32, end: 32 }]) {
      throws(() => packInt4(result, { blockSize: 32, columns }), /^RangeError: Cannot pack columns/);
    }
    throws(() => packInt4(result, { blockSize: 64 }), /in blocks of 64: their groups start at 0,32,64,96$/);
  });
});

describe("unpackInt4()", () => {
  it("refuses a length that the shape does not have", () => {
    const shape = { outFeatures: 2, inFeatures: 33, blockSize: 32 } as const;
    throws(() => unpackInt4(new Uint8Array(34), shape), /from 34 bytes: 64 are needed$/);
  });
});

describe("groupStartsOf()", () => {
  it("starts anew in each segment", () => {
    deepEqual(groupStartsOf([48, 64], 32), [0, 32, 48, 80]);
    notDeepEqual(groupStartsOf([48, 64], 32), groupStartsOf([112], 32));
  });
});
