import { join } from "node:path";

const LOCK_FILE = ".lock";

/** The folder that a run writes into, `out.partial`, which becomes `out` when all is done. It is one run's at a time. */
export class PartialFolder implements Disposable {
  readonly path: string;
  readonly #out: string;
  readonly #lock: Deno.FsFile;

  private constructor(out: string, lock: Deno.FsFile) {
    this.path = pathOf(out);
    this.#out = out;
    this.#lock = lock;
  }

  /**
   * Makes the folder, or takes up the one that an interrupted run left.
   *
   * @param out Absolute; nothing, or an empty folder.
   * @throws {RangeError} If another run writes there, or the folder could not become `out` at the end.
   */
  static async open(out: string): Promise<PartialFolder> {
    const path = pathOf(out);
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

  /** @throws {RangeError} If that fails after all; the message says where the folder is. */
  async becomeOut(): Promise<void> {
    try {
      await Deno.rename(this.path, this.#out);
    } catch (cause) {
      const reason = (cause as Error).message;
      throw new RangeError(`All is done and lies in ${this.path}, which could not be renamed: ${reason}`, { cause });
    }
    await Deno.remove(join(this.#out, LOCK_FILE));
  }

  /** Lets the next run in. */
  [Symbol.dispose](): void {
    this.#lock.close();
  }
}

function pathOf(out: string): string {
  return `${out}.partial`;
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
