import { deepEqual, equal } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { readEvents } from "../../routes/testing/toy_app.ts";

/** Series that are 0 when nothing runs or waits. */
const IDLE = ["requests_running", "requests_waiting", "waiting_prompt_tokens", "kv_cache_usage_ratio"];

interface StartOptions {
  readonly stdout?: "null" | "piped";
  readonly shielded?: boolean;
}

/** The service as its users start it, on a free port of loopback. */
export class Service implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #log: AsyncIterator<string>;
  readonly #unread: boolean;
  port = 0;

  private constructor(args: readonly string[], { stdout = "null", shielded = false }: StartOptions) {
    const shield = ["-c", 'trap "" HUP; exec "$@"', "sh", Deno.execPath()];
    this.#child = new Deno.Command(shielded ? "sh" : Deno.execPath(), {
      args: [
        ...(shielded ? shield : []),
        "run",
        ...["env", "ffi", "net", "read", "sys"].map((permission) => `--allow-${permission}`),
        "main.ts",
        ...["--port", "0", "--threads", "1"],
        ...args,
      ],
      cwd: fileURLToPath(new URL("../..", import.meta.url)),
      stdout,
      stderr: "piped",
    }).spawn();
    this.#log = lines(this.#child.stderr);
    this.#unread = stdout === "piped";
  }

  static start(...args: string[]): Promise<Service> {
    return Service.#start(args, {});
  }

  /** As `nohup` starts it: SIGHUP has no effect. */
  static startShielded(...args: string[]): Promise<Service> {
    return Service.#start(args, { shielded: true });
  }

  /** Its log of requests goes to a pipe, which soon is full. */
  static startWithUnreadLog(...args: string[]): Promise<Service> {
    return Service.#start(args, { stdout: "piped" });
  }

  static async #start(args: readonly string[], options: StartOptions): Promise<Service> {
    const service = new Service(args, options);
    try {
      const [, port] = await service.logged(/^Listening on http:\/\/127\.0\.0\.1:(\d+)$/);
      service.port = Number(port);
      return service;
    } catch (error) {
      await service[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Reads the log up to a line. */
  async logged(pattern: RegExp): Promise<RegExpExecArray> {
    const before: string[] = [];
    while (true) {
      const { done, value } = await this.#log.next();
      if (done) throw new Error(`The service ended without a line like ${pattern}:\n${before.join("\n")}`);
      const found = pattern.exec(value);
      if (found !== null) return found;
      before.push(value);
    }
  }

  get(path: string): Promise<Response> {
    return fetch(`http://127.0.0.1:${this.port}${path}`);
  }

  post(body: unknown, signal?: AbortSignal): Promise<Response> {
    const raw = typeof body === "string" || body instanceof Uint8Array;
    return fetch(`http://127.0.0.1:${this.port}/generate`, {
      method: "POST",
      body: (raw ? body : JSON.stringify(body)) as BodyInit,
      ...(signal && { signal }),
    });
  }

  // deno-lint-ignore no-explicit-any -- tests look into what they expect
  async json(body: unknown): Promise<any> {
    const response = await this.post(body);
    const answer = await response.json();
    equal(response.status, 200, JSON.stringify(answer));
    return answer;
  }

  /** Greedy tokens of a streamed answer. */
  async tokens(body: Record<string, unknown>): Promise<number[]> {
    const events = await Array.fromAsync(readEvents(await this.post({ ...body, stream: true })));
    deepEqual([events[0]?.event, events.at(-1)?.event], ["start", "end"]);
    return events.slice(1, -1).map(({ data }) => data.token);
  }

  /** A series without labels, or with exactly the given ones; 0 if nothing was counted yet. */
  async metric(name: string): Promise<number> {
    const text = await (await this.get("/metrics")).text();
    const line = text.split("\n").find((line) => line.startsWith(`espalier_${name} `));
    return line === undefined ? 0 : Number(line.split(" ").at(-1));
  }

  /** Reads a series until it has a value; each reading lets the service go on. */
  async metricBecomes(name: string, value: number): Promise<void> {
    const readings = 10_000;
    for (let i = 0; i < readings; i++) if (await this.metric(name) === value) return;
    throw new Error(`espalier_${name} is ${await this.metric(name)} after ${readings} readings, not ${value}`);
  }

  /** Waits until no slot, place or cache is taken. */
  async isIdle(): Promise<void> {
    for (const name of IDLE) await this.metricBecomes(name, 0);
  }

  /** Tokens that steps took (prefill) or gave (decode) so far. */
  async stepTokens(phase: "prefill" | "decode"): Promise<number> {
    const text = await (await this.get("/metrics")).text();
    const series = [...text.matchAll(new RegExp(`^espalier_tokens_total\\{phase="${phase}",.*\\} (\\d+)$`, "gm"))];
    return series.reduce((sum, [, count]) => sum + Number(count), 0);
  }

  /** Files and sockets that it has open. */
  openFiles(): number {
    return [...Deno.readDirSync(`/proc/${this.#child.pid}/fd`)].length;
  }

  /** Connections with clients that it has not closed, as the kernel knows them. Linux only. */
  connections(): number {
    const port = `:${this.port.toString(16).toUpperCase().padStart(4, "0")}`;
    const sockets = Deno.readTextFileSync(`/proc/${this.#child.pid}/net/tcp`).split("\n").slice(1);
    // Columns: number, local address, remote address, state. 01: both ends are open, 08: the client has closed its end.
    return sockets.map((line) => line.trim().split(/\s+/))
      .filter(([, local, , state]) => local?.endsWith(port) && (state === "01" || state === "08")).length;
  }

  signal(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  get status(): Promise<Deno.CommandStatus> {
    return this.#child.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    while (!(await this.#log.next()).done);
    await this.#child.status;
    if (this.#unread) await this.#child.stdout.cancel();
  }
}

async function* lines(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string, void> {
  let text = "";
  for await (const piece of stream.pipeThrough(new TextDecoderStream())) {
    text += piece;
    for (let end; (end = text.indexOf("\n")) >= 0; text = text.slice(end + 1)) yield text.slice(0, end);
  }
  if (text !== "") yield text;
}
