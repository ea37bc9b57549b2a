/**
 * Writes a file, whole or not at all: under a temporary name first, and under its own when all of it is on the disk, so
 * that a power failure cannot leave the name without the data. What cannot be written leaves nothing.
 */
export async function writeWhole(path: string, content: string | Uint8Array<ArrayBuffer>): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  await writeWholes([[path, async (file) => await writeAll(file, bytes)]]);
}

/**
 * The same for files that belong together: none gets its name before the data of all is on the disk.
 *
 * @param files Paths, and what writes to each; one after the other.
 */
export async function writeWholes(
  files: readonly (readonly [path: string, write: (file: Deno.FsFile) => Promise<void>])[],
): Promise<void> {
  const temporary = (path: string) => `${path}.partial`;
  try {
    for (const [path, write] of files) {
      using file = await Deno.open(temporary(path), { write: true, create: true, truncate: true });
      await write(file);
      await file.syncData();
    }
    for (const [path] of files) await Deno.rename(temporary(path), path);
  } catch (error) {
    for (const [path] of files) await Deno.remove(temporary(path)).catch(() => {});
    throw error;
  }
}

/** Writes all bytes where the file is at. */
export async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
}
