/**
 * Conversions of the two 16-bit floats to float32, for whole arrays.
 *
 * 16-bit values travel as their bits in a `Uint16Array`, since bfloat16 has no array type of its own.
 */

/** IEEE half precision to float32; exact. `out`, where given, is filled and returned. */
export function float32FromFloat16(
  bits: Uint16Array<ArrayBuffer>,
  out: Float32Array<ArrayBuffer> = new Float32Array(bits.length),
): Float32Array<ArrayBuffer> {
  out.set(new Float16Array(bits.buffer, bits.byteOffset, bits.length));
  return out;
}

/** bfloat16, the upper half of a float32, to float32; exact. `out`, where given, is filled and returned. */
export function float32FromBfloat16(
  bits: Uint16Array,
  out: Float32Array<ArrayBuffer> = new Float32Array(bits.length),
): Float32Array<ArrayBuffer> {
  const outBits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) outBits[i] = bits[i]! << 16;
  return out;
}
