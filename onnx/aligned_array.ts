/** Bytes of a line of the processor's cache, and of its widest register. */
const LINE = 64;

const HUGE_PAGE = 1 << 21;

/** Linux's `MADV_HUGEPAGE`. */
const HUGE_PAGES = 14;

/**
 * Zeros that begin on a line of the processor's cache; a large `Float32Array` begins 16 bytes behind one, so that every
 * wide load and store touches two. Its pages cost nothing until they are written.
 */
export function alignedFloats(count: number): Float32Array<ArrayBuffer> {
  const spare = LINE / Float32Array.BYTES_PER_ELEMENT;
  const array = new Float32Array(count + spare);
  const address = Number(addressOf(array) % BigInt(LINE));
  const start = (LINE - address) % LINE / Float32Array.BYTES_PER_ELEMENT;
  return array.subarray(start, start + count);
}

/**
 * Wishes for huge pages under an array that is read and written from end to end; what is not filled should stay on small
 * ones. Mamba's states pass 5 to 15 % faster (Zen 5). Where the system does not know them, nothing changes.
 */
export function wishForHugePages(array: Float32Array<ArrayBuffer>): void {
  if (Deno.build.os !== "linux") return;
  const size = BigInt(HUGE_PAGE);
  const address = addressOf(array);
  const first = (address + size - 1n) / size * size;
  const end = (address + BigInt(array.byteLength)) / size * size;
  if (end <= first) return;
  const libc = Deno.dlopen("libc.so.6", { madvise: { parameters: ["usize", "usize", "i32"], result: "i32" } });
  libc.symbols.madvise(first, end - first, HUGE_PAGES);
  libc.close();
}

function addressOf(array: Float32Array<ArrayBuffer>): bigint {
  return BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(array)));
}
