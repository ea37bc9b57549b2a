/**
 * A library ends with the digest of all that stands before it; who loads it does not read so far. For a file that was
 * cut short can pass for a library: loading it succeeds, and the first use of a page that is missing ends the process
 * without a word.
 */

import { createHash } from "node:crypto";

const DIGEST_BYTES = 32;

/** Puts the digest at the end of a library that was just linked. */
export async function seal(file: string): Promise<void> {
  await Deno.writeFile(file, digest(await Deno.readFile(file)), { append: true });
}

/** @throws {Error} If the file is not, byte for byte, as it was sealed, or cannot be read. */
export async function checkSeal(file: string): Promise<void> {
  const bytes = await Deno.readFile(file);
  const end = Math.max(0, bytes.length - DIGEST_BYTES);
  if (digest(bytes.subarray(0, end)).equals(bytes.subarray(end))) return;
  throw new Error(`${file}: cut short, changed, or not made by a build of ours`);
}

function digest(bytes: Uint8Array) {
  return createHash("sha256").update(bytes).digest();
}
