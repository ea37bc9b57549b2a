/**
 * Writes a file, whole or not at all: under a temporary name first, and under its own when all of it is on the disk, so
 * that a power failure cannot leave the name without the data. What cannot be written leaves nothing.
 */
export async function writeWhole(path: string, content: string | Uint8Array<ArrayBuffer>): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const temporary = `${path}.partial`;
  try {
    {
      using file = await Deno.open(temporary, { write: true, create: true, truncate: true });
      for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
      await file.syncData();
    }
    await Deno.rename(temporary, path);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw error;
  }
}
