import { float32FromBfloat16, float32FromFloat16 } from "./float16.ts";
import { GGMLQuantizationType } from "@huggingface/gguf";
import type { Floats } from "./floats.ts";

/**
 * How a GGUF file stores a tensor's numbers: in blocks of `blockSize` numbers that take `blockBytes` bytes each.
 *
 * All float16 fields sit at even offsets, since every block has an even number of bytes; so one `Float16Array` over the
 * whole tensor reads them.
 *
 * @see The block structs in ggml, https://github.com/ggml-org/ggml
 */
export interface GgufQuantization {
  readonly name: string;
  readonly blockSize: number;
  readonly blockBytes: number;
  /** Fills `out` with the numbers of as many whole blocks as `bytes` holds. `bytes` starts at an offset that 4 divides. */
  readonly dequantize: (bytes: Uint8Array<ArrayBuffer>, out: Float32Array<ArrayBuffer>) => void;
}

/** The types that we read, by their number in the file. */
export const GGUF_QUANTIZATIONS: ReadonlyMap<number, GgufQuantization> = new Map([
  [GGMLQuantizationType.F32, {
    name: "F32",
    blockSize: 1,
    blockBytes: 4,
    dequantize: (bytes, out) => out.set(new Float32Array(bytes.buffer, bytes.byteOffset, out.length)),
  }],
  [GGMLQuantizationType.F16, {
    name: "F16",
    blockSize: 1,
    blockBytes: 2,
    dequantize: (bytes, out) => float32FromFloat16(new Uint16Array(bytes.buffer, bytes.byteOffset, out.length), out),
  }],
  [GGMLQuantizationType.BF16, {
    name: "BF16",
    blockSize: 1,
    blockBytes: 2,
    dequantize: (bytes, out) => float32FromBfloat16(new Uint16Array(bytes.buffer, bytes.byteOffset, out.length), out),
  }],
  [GGMLQuantizationType.Q8_0, { name: "Q8_0", blockSize: 32, blockBytes: 34, dequantize: dequantizeQ8_0 }],
  [GGMLQuantizationType.Q4_0, { name: "Q4_0", blockSize: 32, blockBytes: 18, dequantize: dequantizeQ4_0 }],
  [GGMLQuantizationType.Q4_1, { name: "Q4_1", blockSize: 32, blockBytes: 20, dequantize: dequantizeQ4_1 }],
  [GGMLQuantizationType.Q5_0, { name: "Q5_0", blockSize: 32, blockBytes: 22, dequantize: dequantizeQ5_0 }],
  [GGMLQuantizationType.Q5_1, { name: "Q5_1", blockSize: 32, blockBytes: 24, dequantize: dequantizeQ5_1 }],
  [GGMLQuantizationType.Q4_K, { name: "Q4_K", blockSize: 256, blockBytes: 144, dequantize: dequantizeQ4_K }],
  [GGMLQuantizationType.Q6_K, { name: "Q6_K", blockSize: 256, blockBytes: 210, dequantize: dequantizeQ6_K }],
]);

/** The type's name, known or not. */
export function ggufTypeName(type: number): string {
  return GGMLQuantizationType[type] ?? `number ${type}`;
}

type Bytes = Uint8Array<ArrayBuffer>;

function halves(bytes: Bytes): Float16Array {
  return new Float16Array(bytes.buffer, bytes.byteOffset, bytes.length >> 1);
}

/** Block: scale f16, 32 × i8. */
function dequantizeQ8_0(bytes: Bytes, out: Floats): void {
  const f16 = halves(bytes);
  const codes = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, o = 0; at < bytes.length; at += 34, o += 32) {
    const scale = f16[at >> 1]!;
    for (let i = 0; i < 32; i++) out[o + i] = scale * codes[at + 2 + i]!;
  }
}

/** Block: scale f16, 16 bytes; byte i holds number i in its low half and number i + 16 in its high half, both + 8. */
function dequantizeQ4_0(bytes: Bytes, out: Floats): void {
  const f16 = halves(bytes);
  for (let at = 0, o = 0; at < bytes.length; at += 18, o += 32) {
    const scale = f16[at >> 1]!;
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 2 + i]!;
      out[o + i] = scale * ((pair & 15) - 8);
      out[o + 16 + i] = scale * ((pair >> 4) - 8);
    }
  }
}

/** Block: scale f16, minimum f16, 16 bytes as in Q4_0 but without the 8. */
function dequantizeQ4_1(bytes: Bytes, out: Floats): void {
  const f16 = halves(bytes);
  for (let at = 0, o = 0; at < bytes.length; at += 20, o += 32) {
    const scale = f16[at >> 1]!;
    const minimum = f16[(at >> 1) + 1]!;
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 4 + i]!;
      out[o + i] = scale * (pair & 15) + minimum;
      out[o + 16 + i] = scale * (pair >> 4) + minimum;
    }
  }
}

/** Block: scale f16, the fifth bits of the 32 numbers, 16 bytes as in Q4_0; the offset is 16. */
function dequantizeQ5_0(bytes: Bytes, out: Floats): void {
  const f16 = halves(bytes);
  for (let at = 0, o = 0; at < bytes.length; at += 22, o += 32) {
    const scale = f16[at >> 1]!;
    const fifths = uint32At(bytes, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 6 + i]!;
      out[o + i] = scale * ((pair & 15 | (fifths >> i & 1) << 4) - 16);
      out[o + 16 + i] = scale * ((pair >> 4 | (fifths >> i + 16 & 1) << 4) - 16);
    }
  }
}

/** Block: scale f16, minimum f16, the fifth bits of the 32 numbers, 16 bytes as in Q4_1. */
function dequantizeQ5_1(bytes: Bytes, out: Floats): void {
  const f16 = halves(bytes);
  for (let at = 0, o = 0; at < bytes.length; at += 24, o += 32) {
    const scale = f16[at >> 1]!;
    const minimum = f16[(at >> 1) + 1]!;
    const fifths = uint32At(bytes, at + 4);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 8 + i]!;
      out[o + i] = scale * (pair & 15 | (fifths >> i & 1) << 4) + minimum;
      out[o + 16 + i] = scale * (pair >> 4 | (fifths >> i + 16 & 1) << 4) + minimum;
    }
  }
}

/**
 * Block: scale f16, minimum f16, 12 bytes with 8 scales and 8 minima of 6 bits, 128 bytes.
 *
 * Each 32 of those bytes hold two groups of 32 numbers: the one in the low halves, the next in the high halves. Of the
 * packed bytes, 0 to 3 start with the scales of groups 0 to 3 and 4 to 7 with their minima; 8 to 11 have the low halves
 * of the scales and minima of groups 4 to 7, whose upper two bits sit on top of bytes 0 to 7.
 */
function dequantizeQ4_K(bytes: Bytes, out: Floats): void {
  const f16 = halves(bytes);
  for (let at = 0, o = 0; at < bytes.length; at += 144, o += 256) {
    const scale = f16[at >> 1]!;
    const minimum = f16[(at >> 1) + 1]!;
    for (let group = 0; group < 8; group++) {
      const packed = at + 4 + (group & 3);
      const [scaleCode, minimumCode] = group < 4
        ? [bytes[packed]! & 63, bytes[packed + 4]! & 63]
        : [bytes[packed + 8]! & 15 | bytes[packed]! >> 6 << 4, bytes[packed + 8]! >> 4 | bytes[packed + 4]! >> 6 << 4];
      const groupScale = scale * scaleCode;
      const groupMinimum = minimum * minimumCode;
      const codes = at + 16 + (group >> 1) * 32;
      const shift = (group & 1) * 4;
      for (let i = 0; i < 32; i++) {
        out[o + group * 32 + i] = groupScale * (bytes[codes + i]! >> shift & 15) - groupMinimum;
      }
    }
  }
}

/**
 * Block: 128 bytes of low 4 bits, 64 bytes of upper 2 bits, 16 × i8 scales, scale f16; the offset is 32.
 *
 * Each half of the block, 128 numbers, is four runs of 32: byte i of the half's upper bits serves number i of all four
 * runs; the low bits of runs 0 and 2 share bytes 0 to 31 of the half, those of runs 1 and 3 bytes 32 to 63.
 */
function dequantizeQ6_K(bytes: Bytes, out: Floats): void {
  const f16 = halves(bytes);
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, o = 0; at < bytes.length; at += 210, o += 256) {
    const scale = f16[at + 208 >> 1]!;
    for (let group = 0; group < 16; group++) {
      const half = group >> 3;
      const run = group >> 1 & 3;
      const within = (group & 1) * 16;
      const groupScale = scale * signed[at + 192 + group]!;
      const low = at + half * 64 + (run & 1) * 32 + within;
      const high = at + 128 + half * 32 + within;
      const lowShift = (run >> 1) * 4;
      const highShift = run * 2;
      for (let i = 0; i < 16; i++) {
        const code = bytes[low + i]! >> lowShift & 15 | (bytes[high + i]! >> highShift & 3) << 4;
        out[o + group * 16 + i] = groupScale * (code - 32);
      }
    }
  }
}

/** Little-endian; the sign is of no matter, only bits are taken from it. */
function uint32At(bytes: Bytes, at: number): number {
  return bytes[at]! | bytes[at + 1]! << 8 | bytes[at + 2]! << 16 | bytes[at + 3]! << 24;
}
