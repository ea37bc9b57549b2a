import { physicalCores } from "../physical_cores.ts";

/** How long it computes before it looks whether its input is still open. */
const BURST_MS = 50;

/**
 * Tells that it runs, then computes until its input closes: which it does when whoever started it has ended, in whatever
 * way. Another loop than this one would go on for ever then.
 */
const LOOP = `
  Deno.stdin.read(new Uint8Array(1)).then(() => Deno.exit());
  await Deno.stdout.write(new Uint8Array(1));
  while (true) {
    const end = Date.now() + ${BURST_MS};
    while (Date.now() < end);
    await new Promise((resolve) => setTimeout(resolve));
  }
`;

/** Takes half of the cores, one at least. @throws {RangeError} If a process may not run on one of them. */
export function takeHalfOfTheCpu(): Promise<BusyCores> {
  return BusyCores.start(Math.max(1, physicalCores() >> 1));
}

/** Processes that compute for nothing, each on a core of its own where the system can pin them. */
export class BusyCores implements AsyncDisposable {
  readonly #children: readonly Deno.ChildProcess[];

  private constructor(children: readonly Deno.ChildProcess[]) {
    this.#children = children;
  }

  /**
   * Takes so many cores, the first ones; they are taken when this returns.
   *
   * @throws {RangeError} If a process may not run on one of them.
   */
  static async start(count: number): Promise<BusyCores> {
    const children = Array.from({ length: count }, (_, core) => {
      const loop = [Deno.execPath(), "eval", LOOP];
      try {
        return spawn(["taskset", "--cpu-list", String(core), ...loop]);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
        return spawn(loop);
      }
    });
    const cores = new BusyCores(children);
    for (const [core, child] of children.entries()) {
      const reader = child.stdout.getReader();
      const { done } = await reader.read();
      reader.releaseLock();
      if (!done) continue;
      const said = await new Response(child.stderr).text();
      await cores[Symbol.asyncDispose]();
      throw new RangeError(`Cannot keep core ${core} busy: ${said.trim()}`);
    }
    return cores;
  }

  /** The processes' ids. */
  get pids(): readonly number[] {
    return this.#children.map(({ pid }) => pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) {
      try {
        child.kill("SIGKILL");
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // it has ended
      }
    }
    await Promise.all(this.#children.map(async (child) => {
      await child.status;
      await Promise.all(
        [child.stdin.close(), child.stdout.cancel(), child.stderr.cancel()].map((end) => end.catch(() => {})),
      );
    }));
  }
}

function spawn([program, ...args]: readonly string[]): Deno.ChildProcess {
  return new Deno.Command(program!, { args, stdin: "piped", stdout: "piped", stderr: "piped" }).spawn();
}
