/** Processes that compute for nothing, each on a core of its own where the system can pin them. */
export class BusyCores implements AsyncDisposable {
  readonly #children: readonly Deno.ChildProcess[];

  /** Takes so many cores, the first ones. */
  constructor(count: number) {
    this.#children = Array.from({ length: count }, (_, core) => {
      const loop = [Deno.execPath(), "eval", "while (true);"];
      try {
        return spawn(["taskset", "--cpu-list", String(core), ...loop]);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
        return spawn(loop);
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) child.kill("SIGKILL");
    await Promise.all(this.#children.map(({ status }) => status));
  }
}

function spawn([program, ...args]: readonly string[]): Deno.ChildProcess {
  return new Deno.Command(program!, { args, stdin: "null", stdout: "null", stderr: "null" }).spawn();
}
