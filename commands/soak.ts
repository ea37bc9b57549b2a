/** `deno task soak`: thousands of requests at mixed rates; memory afterwards, and answers against a fresh process. */

import { z } from "zod";
import { parseFlags } from "./flags.ts";
import { physicalCores } from "./physical_cores.ts";
import { progressBar } from "./progress_bar.ts";
import { GarbageCollector } from "./replay/garbage_collector.ts";
import { RandomDraws } from "./replay/random.ts";
import { ServiceProcess } from "./replay/service_process.ts";
import { runCommand } from "./run_command.ts";
import { median } from "./statistics.ts";

const Flags = z.strictObject({
  model: z.string().min(1).default("artifacts/demo").describe("Folder of the artefact; it must have a tokenizer"),
  requests: z.int().min(200).max(10_000_000).default(10_000).describe("Requests in all"),
  concurrency: z.int().min(1).max(32).default(6).describe("Requests at once"),
  seed: z.int().min(0).max(0xffffffff).default(1).describe("Seed of the order of requests"),
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads of the service"),
});

/**
 * The bar: how much more memory the last tenth may take than the second, which comes after the warm-up; medians, read
 * right after the service's garbage was collected.
 */
const MAX_GROWTH = 0.02;

/** Readings of memory in all. */
const READINGS = 100;

const OPENINGS = [
  "Once upon a time",
  "The little dog",
  "One day, a girl named Lily",
  "It was a cold day and the",
  "Tom and his mother went to",
  "In the forest there lived an old",
];

interface Body {
  readonly prompt: string;
  readonly max_new_tokens: number;
  readonly temperature: number;
  readonly seed: number;
  readonly pruning_rate?: number;
  readonly latency_budget_ms?: number;
}

/** Bodies whose answers are the same whenever they are asked: each has its rate and its seed. */
function pinnedBodies(rates: readonly number[]): Body[] {
  return rates.flatMap((pruning_rate, level) =>
    OPENINGS.map((prompt, index) => ({
      prompt,
      max_new_tokens: 4 + 7 * ((level + index) % 6),
      temperature: index % 2 === 0 ? 0 : 0.8,
      seed: 100 * level + index,
      pruning_rate,
    }))
  );
}

/** What is asked: `pinned` is checked, `free` gets the rate that load allows, `left` is left by its client. */
type Kind = "pinned" | "free" | "left";

class Soak {
  readonly counts = { answered: 0, refused: 0, left: 0, different: 0 };
  /** Resident bytes at most, garbage included. */
  mostBytes = 0;
  /** Resident bytes without garbage, and JavaScript's part of them, with the share of the requests that had been sent. */
  readonly memory: { readonly share: number; readonly bytes: number; readonly heapBytes: number }[] = [];
  readonly #url: string;
  readonly #garbage: GarbageCollector | null;

  /** @param garbage Of the service; without it no memory is read. */
  constructor(url: string, garbage: GarbageCollector | null = null) {
    this.#url = url;
    this.#garbage = garbage;
  }

  /** The text of an answer. @throws {RangeError} If it is not 200, unless it is null for a refusal. */
  async ask(body: Body, stream = false): Promise<string | null> {
    const response = await this.#post({ ...body, stream });
    const text = await response.text();
    if (response.status === 429) return null;
    if (response.status !== 200) throw new RangeError(`${JSON.stringify(body)} got ${response.status}: ${text}`);
    if (!stream) return JSON.parse(text).text;
    const pieces = [...text.matchAll(/^event: token\ndata: (.*)$/gm)].map(([, data]) => JSON.parse(data!).text);
    return pieces.join("");
  }

  /** Asks for a stream and leaves after its first bytes. */
  async leave(body: Body): Promise<void> {
    const leaving = new AbortController();
    const response = await this.#post({ ...body, stream: true }, leaving.signal);
    await response.body!.getReader().read();
    leaving.abort();
  }

  /** Takes a reading. @param share Of the requests that have been sent. */
  async read(share: number): Promise<void> {
    const [uncollectedBytes] = await this.#metrics("process_resident_memory_bytes");
    this.mostBytes = Math.max(this.mostBytes, uncollectedBytes!);
    await this.#garbage!.collect();
    const [bytes, heapBytes] = await this.#metrics("process_resident_memory_bytes", "process_heap_bytes");
    this.memory.push({ share, bytes: bytes!, heapBytes: heapBytes! });
  }

  /** Requests that run or wait. */
  async busy(): Promise<number> {
    const [running, waiting] = await this.#metrics("espalier_requests_running", "espalier_requests_waiting");
    return running! + waiting!;
  }

  async #metrics(...names: readonly string[]): Promise<number[]> {
    const text = await (await fetch(`${this.#url}/metrics`)).text();
    return names.map((name) => Number(new RegExp(`^${name} (.*)$`, "m").exec(text)![1]));
  }

  #post(body: unknown, signal?: AbortSignal): Promise<Response> {
    return fetch(`${this.#url}/generate`, { method: "POST", body: JSON.stringify(body), ...(signal && { signal }) });
  }
}

await runCommand(async () => {
  const flags = parseFlags(Flags, Deno.args, {
    name: "deno task soak",
    summary: "Serves thousands of requests at mixed rates and measures what is left of them.",
  });
  const start = (debugged = false) =>
    ServiceProcess.start([`--model=${flags.model}`, `--threads=${flags.threads}`], { debugged });

  const expected = new Map<Body, string | null>();
  {
    await using fresh = await start();
    const rates: number[] = (await fresh.client.info()).levels.map(({ pruning_rate }) => pruning_rate);
    for (const body of pinnedBodies(rates)) expected.set(body, await new Soak(fresh.client.url).ask(body));
  }
  const bodies = [...expected.keys()];

  await using service = await start(true);
  using garbage = await GarbageCollector.connect(service.debuggerUrl!);
  const soak = new Soak(service.client.url, garbage);
  const random = new RandomDraws(flags.seed);
  const { counts } = soak;
  let sent = 0;
  let read = 0;
  const worker = async (bar: { update(share: number, label: string): void }) => {
    while (sent < flags.requests) {
      const share = sent++ / flags.requests;
      const body = bodies[random.integer(bodies.length)]!;
      const kind: Kind = (["free", "free", "left"] as const)[random.integer(16)] ?? "pinned";
      const stream = random.integer(2) === 0;
      if (kind === "left") {
        await soak.leave(body);
        counts.left++;
      } else {
        const { pruning_rate: _, ...free } = body;
        const budget = [50, 200, 1000, 5000][random.integer(4)]!;
        const answer = await soak.ask(kind === "free" ? { ...free, latency_budget_ms: budget } : body, stream);
        if (answer === null) counts.refused++;
        else counts.answered++;
        if (kind === "pinned" && answer !== null && answer !== expected.get(body)) counts.different++;
      }
      if (share * READINGS >= read) {
        read++;
        await soak.read(share);
      }
      bar.update(share, `${counts.answered} answered, ${counts.refused} refused, ${counts.left} left`);
    }
  };
  {
    using bar = progressBar("soak");
    await Promise.all(Array.from({ length: flags.concurrency }, () => worker(bar)));
  }
  for (let last = await soak.busy(); last > 0; last = await soak.busy());
  for (const body of bodies) if (await soak.ask(body) !== expected.get(body)) counts.different++;

  const part = (from: number, to: number, of: "bytes" | "heapBytes") =>
    median(soak.memory.filter(({ share }) => share >= from && share < to).map((reading) => reading[of]));
  const [before, after] = [part(0.1, 0.2, "bytes"), part(0.9, 1, "bytes")];
  const growth = after / before - 1;
  const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  console.log(`requests: ${counts.answered} answered, ${counts.refused} refused, ${counts.left} left by their clients`);
  console.log(
    `resident memory after collecting garbage: from ${mebibytes(before)} in the second tenth to ${mebibytes(after)} ` +
      `in the last: ${(100 * growth).toFixed(2)} % (less than ${100 * MAX_GROWTH} %); with garbage up to ` +
      `${mebibytes(soak.mostBytes)}`,
  );
  console.log(
    `JavaScript's part: from ${mebibytes(part(0.1, 0.2, "heapBytes"))} to ${mebibytes(part(0.9, 1, "heapBytes"))}`,
  );
  console.log(`answers that differ from those of a fresh process: ${counts.different}`);
  if (growth >= MAX_GROWTH || counts.different > 0) Deno.exitCode = 1;
});
