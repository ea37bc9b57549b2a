import { fileURLToPath } from "node:url";

/** The service over an artefact, as its users start it, on a free port of loopback. */
export interface ServedModel extends AsyncDisposable {
  readonly url: string;
}

/** Starts `main.ts`; settles when it listens. @throws {Error} If it ends before, with what it said. */
export async function serveModel(artefact: string, ...args: string[]): Promise<ServedModel> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      ...["env", "ffi", "net", "read", "sys"].map((permission) => `--allow-${permission}`),
      ...["main.ts", "--port", "0", "--threads", "1", "--model", artefact, ...args],
    ],
    cwd: fileURLToPath(new URL("../..", import.meta.url)),
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let said = "";
  const listening = Promise.withResolvers<string>();
  const reading = (async () => {
    for await (const piece of child.stderr.pipeThrough(new TextDecoderStream())) {
      said += piece;
      const url = /^Listening on (\S+)$/m.exec(said)?.[1];
      if (url !== undefined) listening.resolve(url);
    }
    listening.reject(new Error(`The service ended:\n${said}`));
  })();
  const stop = async () => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await Promise.all([reading, child.status]);
  };
  try {
    return { url: await listening.promise, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
