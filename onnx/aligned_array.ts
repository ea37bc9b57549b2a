/** Bytes of a line of the processor's cache, and of its widest register. */
const LINE = 64;

/**
 * Zeros that begin on a line of the processor's cache; a large `Float32Array` begins 16 bytes behind one, so that every
 * wide load and store touches two. Its pages cost nothing until they are written.
 */
export function alignedFloats(count: number): Float32Array<ArrayBuffer> {
  const spare = LINE / Float32Array.BYTES_PER_ELEMENT;
  const array = new Float32Array(count + spare);
  const address = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(array)) % BigInt(LINE));
  const start = (LINE - address) % LINE / Float32Array.BYTES_PER_ELEMENT;
  return array.subarray(start, start + count);
}
