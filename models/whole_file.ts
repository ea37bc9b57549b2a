import { namingFile } from "./naming_file.ts";

/** Writes all bytes at the end of a file. */
export type Write = (bytes: Uint8Array) => Promise<void>;

/**
 * Writes a file, whole or not at all: under a temporary name first, and under its own when all of it is on the disk, so
 * that a power failure cannot leave the name without the data. What cannot be written leaves nothing.
 */
export async function writeWhole(path: string, content: string | Uint8Array<ArrayBuffer>): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  await writeWholes([[path, (write) => write(bytes)]]);
}

/**
 * The same for files that belong together: none gets its name before the data of all is on the disk.
 *
 * @param files Paths, and what each file is written by; one after the other.
 */
export async function writeWholes(
  files: readonly (readonly [path: string, content: (write: Write) => Promise<void>])[],
): Promise<void> {
  const temporary = (path: string) => `${path}.partial`;
  try {
    for (const [path, content] of files) {
      using file = await Deno.open(temporary(path), { write: true, create: true, truncate: true });
      await content((bytes) => namingFile(path, () => writeAll(file, bytes)));
      await namingFile(path, () => file.syncData());
    }
    for (const [path] of files) await Deno.rename(temporary(path), path);
  } catch (error) {
    for (const [path] of files) await Deno.remove(temporary(path)).catch(() => {});
    throw error;
  }
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
}
