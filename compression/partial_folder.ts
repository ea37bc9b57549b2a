import { join } from "node:path";
import { isArtefact } from "../models/artefact.ts";
import { JOURNAL_FILE, removeState } from "./journal.ts";

const LOCK_FILE = ".lock";

/** The folder that a run writes into, `out.partial`, which becomes `out` when all is done. It is one run's at a time. */
export class PartialFolder implements Disposable {
  readonly path: string;
  readonly #out: string;
  readonly #lock: Deno.FsFile;

  private constructor(out: string, lock: Deno.FsFile) {
    this.path = partialPathOf(out);
    this.#out = out;
    this.#lock = lock;
  }

  /**
   * Makes the folder, or takes up the one that an interrupted run left.
   *
   * @param out Absolute; nothing, or an empty folder.
   * @throws {RangeError} If another run writes there, what is there is no run's, or the folder could not become `out` at
   * the end.
   */
  static async open(out: string): Promise<PartialFolder> {
    const path = partialPathOf(out);
    await checkOwn(out, path);
    await Deno.mkdir(path, { recursive: true });
    const lock = await Deno.open(join(path, LOCK_FILE), { write: true, create: true });
    try {
      if (!await isAlone(lock, path)) throw new RangeError(`Cannot compress to ${out}: another run is writing ${path}`);
      await tryToBecome(out, path);
      return new PartialFolder(out, lock);
    } catch (error) {
      lock.close();
      throw error;
    }
  }

  /**
   * Leaves nothing but the artefact. What a run goes on from is removed first, so that no end by force leaves it in `out`;
   * the journal last of all: as long as it is there, the same job comes back to this place. By now it should be all that
   * there is to remove, for there is no lock any more.
   *
   * @param say Told what could not be removed: the artefact is none the worse for it.
   * @throws {RangeError} If the folder cannot be renamed after all; the message says where it is.
   */
  async becomeOut(say: (message: string) => void): Promise<void> {
    for (const remove of [() => Deno.remove(join(this.path, LOCK_FILE)), () => removeState(this.path)]) {
      await remove().catch(({ message }: Error) => say(`Left in ${this.#out}, which does not need it: ${message}`));
    }
    try {
      await Deno.rename(this.path, this.#out);
    } catch (cause) {
      const reason = (cause as Error).message;
      throw new RangeError(`All is done and lies in ${this.path}, which could not be renamed: ${reason}`, { cause });
    }
  }

  /** Lets the next run in. */
  [Symbol.dispose](): void {
    this.#lock.close();
  }
}

/** Where a run writes what shall become `out`. */
export function partialPathOf(out: string): string {
  return `${out}.partial`;
}

/**
 * @throws {RangeError} If there is a folder that no run left. One that a run made is locked from its first moment to its
 * last, and has a journal beyond that.
 */
async function checkOwn(out: string, path: string): Promise<void> {
  const there = await Deno.lstat(path).catch(() => null);
  if (there === null) return;
  const names = there.isDirectory ? await Array.fromAsync(Deno.readDir(path), ({ name }) => name) : null;
  if (names?.length === 0 || names?.some((name) => name === LOCK_FILE || name === JOURNAL_FILE)) return;
  const what = await isArtefact(path) ? `is a whole artefact, to be renamed to ${out}` : "is not what a run left";
  throw new RangeError(`Cannot compress to ${out}: ${path} ${what}`);
}

/**
 * Bytes on the disk that an interrupted run holds, 0 if there was none. Files of it may have holes: weights are announced
 * before they are written.
 *
 * @param out As for {@linkcode PartialFolder.open}.
 */
export async function bytesHeld(out: string): Promise<number> {
  const path = partialPathOf(out);
  if (await Deno.lstat(path).then(({ isDirectory }) => !isDirectory, () => true)) return 0;
  const files = await Array.fromAsync(Deno.readDir(path), ({ name }) => Deno.lstat(join(path, name)));
  return files.reduce((bytes, { blocks }) => bytes + (blocks ?? 0) * 512, 0);
}

/** The lock of a run that ended meanwhile is free, but it went away with the folder. */
async function isAlone(lock: Deno.FsFile, path: string): Promise<boolean> {
  if (!await lock.tryLock(true)) return false;
  const there = await Deno.stat(join(path, LOCK_FILE)).catch(() => null);
  return there?.ino === (await lock.stat()).ino;
}

/** Does to an empty folder what will be done to the full one: a mount point, for one, cannot be replaced. */
async function tryToBecome(out: string, path: string): Promise<void> {
  const isThere = await Deno.stat(out).then(() => true, () => false);
  const trial = join(path, ".trial");
  await Deno.mkdir(trial, { recursive: true });
  try {
    await Deno.rename(trial, out);
  } catch (cause) {
    await Deno.remove(trial);
    const reason = (cause as Error).message;
    throw new RangeError(`Cannot compress to ${out}: no folder can be renamed to that (${reason})`, { cause });
  }
  if (!isThere) await Deno.remove(out);
}
