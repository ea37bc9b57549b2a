import { fileURLToPath } from "node:url";
import project from "../../deno.json" with { type: "json" };
import { ServiceClient } from "./client.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Lines of the service's log that are shown if it does not start. */
const LAST_LINES = 5;

/** Time that a service that listens gets until it is ready, and that it gets to end. */
const [READY_MS, STOP_MS] = [60_000, 30_000];

/** How often a service that listens is asked whether it is ready. */
const POLL_MS = 50;

/** Settings of another service that may stand in the environment, with which this one could not be asked. */
const OWN_DOOR = { ESPALIER_API_KEYS: "", ESPALIER_API_KEYS_FILE: "", ESPALIER_HOST: "" };

/** The service in a process of its own, on a free port of loopback. It ends with this process. */
export class ServiceProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #onSignal: () => void;
  readonly client: ServiceClient;
  /** Where its debugger listens, a WebSocket; null if it was not asked for. */
  readonly debuggerUrl: string | null;

  private constructor(child: Deno.ChildProcess, onSignal: () => void, { url, debuggerUrl }: Addresses) {
    this.#child = child;
    this.#onSignal = onSignal;
    this.client = new ServiceClient(url);
    this.debuggerUrl = debuggerUrl;
  }

  /**
   * Starts it as `deno task start` does, and waits until it is ready.
   *
   * @param flags Such as `--model=artifacts/demo`.
   * @param debugged Opens its debugger on loopback.
   * @throws {RangeError} If it ends instead; the message has the end of its log.
   */
  static async start(flags: readonly string[], { debugged = false } = {}): Promise<ServiceProcess> {
    const [, run, ...task] = project.tasks.start.split(" ");
    const child = new Deno.Command(Deno.execPath(), {
      args: [run!, ...debugged ? ["--inspect=127.0.0.1:0"] : [], ...task, "--port=0", ...flags],
      cwd: ROOT,
      env: OWN_DOOR,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const onSignal = () => {
      child.kill("SIGKILL");
      Deno.exit(1);
    };
    for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, onSignal);
    const service = new ServiceProcess(child, onSignal, await addressesOf(child, flags));
    const start = performance.now();
    while (!await service.client.ready()) {
      if (performance.now() - start > READY_MS) {
        await service[Symbol.asyncDispose]();
        throw new RangeError(`The service with ${flags.join(" ")} listens and is not ready after ${READY_MS} ms`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    return service;
  }

  /** Asks it to stop and waits until it has. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.removeSignalListener(signal, this.#onSignal);
    this.client[Symbol.dispose]();
    const kill = (signal: Deno.Signal) => {
      try {
        this.#child.kill(signal);
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // it has ended
      }
    };
    kill("SIGTERM");
    const timer = setTimeout(() => kill("SIGKILL"), STOP_MS);
    await this.#child.status;
    clearTimeout(timer);
  }
}

interface Addresses {
  readonly url: string;
  readonly debuggerUrl: string | null;
}

/** Reads the log up to where the service listens; the rest is read and dropped, or its pipe would fill up. */
async function addressesOf(child: Deno.ChildProcess, flags: readonly string[]): Promise<Addresses> {
  const lines = readLines(child.stderr);
  const log: string[] = [];
  let debuggerUrl: string | null = null;
  while (true) {
    const { done, value } = await lines.next();
    if (done) {
      throw new RangeError(
        `Cannot start the service with ${flags.join(" ")}:\n${log.slice(-LAST_LINES).join("\n")}`,
      );
    }
    log.push(value);
    debuggerUrl ??= /^Debugger listening on (ws:\S+)$/.exec(value)?.[1] ?? null;
    const url = /^Listening on (http:\S+)$/.exec(value)?.[1];
    if (url === undefined) continue;
    (async () => {
      while (!(await lines.next()).done);
    })();
    return { url, debuggerUrl };
  }
}

async function* readLines(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string, void> {
  let rest = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest !== "") yield rest;
}
