import { Buffer } from "node:buffer";
import { Agent, request as httpRequest } from "node:http";
import { z } from "zod";

/** What is read of the service's answers; what else is in them is not our business. */
const Answer = z.object({
  finish_reason: z.string(),
  pruning_rate: z.number(),
  mean_pruning_rate: z.number(),
  reason: z.string(),
  usage: z.object({ completion_tokens: z.int() }),
  budget: z.object({ predicted_ms: z.number(), met: z.boolean().nullable() }),
  timings_ms: z.object({ queue: z.number(), prefill: z.number(), decode: z.number(), total: z.number() }),
});
export type Answer = z.output<typeof Answer>;

const Info = z.object({
  model: z.object({ name: z.string(), vocab_size: z.int(), context_tokens: z.int() }),
  levels: z.array(z.object({ pruning_rate: z.number(), perplexity: z.number().nullable() })).min(1),
  slots: z.int(),
  threads: z.int(),
  engine: z.string(),
  kernels: z.string(),
});
export type Info = z.output<typeof Info>;

/** The body of `POST /generate`, as far as a replay needs it. */
export interface GenerateBody {
  readonly prompt_tokens: readonly number[];
  readonly max_new_tokens: number;
  readonly temperature: 0;
  readonly pruning_rate?: number;
  readonly latency_budget_ms?: number;
  readonly on_miss?: "degrade" | "truncate" | "reject";
}

export interface Reply {
  /** HTTP status; 0 if the connection failed. */
  readonly status: number;
  /** From sending to the whole answer. */
  readonly ms: number;
  /** `null` unless the status is 200. */
  readonly answer: Answer | null;
  /** The body of anything else, or the connection's error. */
  readonly problem: string | null;
}

/** Whoever has no answer after that gets none: no request may hold up the rest for ever. */
const DEFAULT_TIMEOUT_MS = 120_000;

/** Time in which a service that is well answers what it need not compute. */
const BRIEF_MS = 10_000;

/** A client that keeps its connections open and waits for nothing before it sends. */
export class ServiceClient implements Disposable {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: Infinity, maxFreeSockets: 256 });

  /** @param url Of the service, such as `http://127.0.0.1:8080`. */
  constructor(readonly url: string) {}

  /** Asks for an answer. Failures are replies too, and so is no answer in time. */
  async generate(body: GenerateBody, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<Reply> {
    const start = performance.now();
    try {
      const { status, text } = await this.#send("POST", "/generate", timeoutMs, JSON.stringify(body));
      const ms = performance.now() - start;
      return status === 200
        ? { status, ms, answer: Answer.parse(JSON.parse(text)), problem: null }
        : { status, ms, answer: null, problem: text };
    } catch (error) {
      // Only a broken connection has a code; an answer in another shape is for the developer.
      if (!(error instanceof Error && "code" in error)) throw error;
      return { status: 0, ms: performance.now() - start, answer: null, problem: error.message };
    }
  }

  /** @throws {Error} If the service does not say what it runs. */
  async info(): Promise<Info> {
    const { status, text } = await this.#send("GET", "/info", BRIEF_MS);
    if (status !== 200) throw new RangeError(`${this.url}/info answers ${status}: ${text.slice(0, 200)}`);
    return Info.parse(JSON.parse(text));
  }

  /** Whether requests are welcome. */
  async ready(): Promise<boolean> {
    try {
      return (await this.#send("GET", "/readyz", BRIEF_MS)).status === 200;
    } catch {
      return false;
    }
  }

  /** Milliseconds until the whole of a document is there; infinite if it is not, or not with 200. */
  async timed(path: string): Promise<number> {
    const start = performance.now();
    try {
      return (await this.#send("GET", path, BRIEF_MS)).status === 200 ? performance.now() - start : Infinity;
    } catch {
      return Infinity;
    }
  }

  #send(method: string, path: string, timeoutMs: number, body?: string): Promise<{ status: number; text: string }> {
    return new Promise((resolve, reject) => {
      const headers = body === undefined
        ? {}
        : { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
      const request = httpRequest(`${this.url}${path}`, { method, agent: this.#agent, headers }, (response) => {
        const chunks: Uint8Array[] = [];
        response.on("data", (chunk: Uint8Array) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () => resolve({ status: response.statusCode!, text: Buffer.concat(chunks).toString() }));
      });
      const late = () => request.destroy(Object.assign(new Error(`No answer in ${timeoutMs} ms`), { code: "TIMEOUT" }));
      const timer = setTimeout(late, timeoutMs);
      request.on("close", () => clearTimeout(timer));
      request.on("error", reject);
      request.end(body);
    });
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}
