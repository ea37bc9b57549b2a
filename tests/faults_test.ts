import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { ToyRunner } from "../engine/testing/toy_runner.ts";
import type { ModelConfig } from "../models/description.ts";
import { writeRandomArtefact } from "../models/random_artefact.ts";
import { listen } from "../routes/mod.ts";
import { readEvents, toyApp } from "../routes/testing/toy_app.ts";
import { Service } from "./support/service.ts";
import { TINY_LLAMA } from "./support/tiny_models.ts";

/** Answers and prompts can be long, so that a client can leave either. */
const CONFIG: ModelConfig = { ...TINY_LLAMA, maxPositionEmbeddings: 8192, eosTokenIds: [] };
const CONTEXT = 8192;
const SLOTS = 2;
const MAX_WAITING = 3;
const MAX_BODY_BYTES = 65_536;

/** At one rate whatever the load, so that its tokens can be told beforehand. */
const GREEDY = { prompt_tokens: [40, 9, 77, 3, 3, 51], max_new_tokens: 24, temperature: 0, pruning_rate: 0 };
/** It shares its steps with whatever goes wrong beside it. */
const NEIGHBOUR = { ...GREEDY, prompt_tokens: [7, 8, 9], max_new_tokens: 600, pruning_rate: 0.15 };
const LONG_ANSWER = { ...GREEDY, max_new_tokens: CONTEXT - GREEDY.prompt_tokens.length };
const LONG_PROMPT = { ...GREEDY, prompt_tokens: Array.from({ length: CONTEXT - 24 }, (_, i) => i % 95) };

const UNANSWERED = 'requests_total{outcome="cancelled",code="499"}';
/** The head of a stream has been sent. */
const BROKEN_OFF = 'requests_total{outcome="cancelled",code="200"}';

const FLAGS = [
  ...["--slots", String(SLOTS), "--max-context", String(CONTEXT), "--max-waiting", String(MAX_WAITING)],
  // Prompts come in many steps; slow clients are given up after a second, open connections soon after.
  ...["--prefill-chunk", "16", "--header-seconds", "1", "--request-seconds", "1", "--stalled-seconds", "1"],
  ...["--idle-seconds", "1", "--max-body-bytes", String(MAX_BODY_BYTES)],
];

/** A client that writes bytes, and need not keep to HTTP. */
class RawClient implements Disposable {
  readonly #connection: Deno.TcpConn;

  private constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
  }

  static async connect(port: number, text: string): Promise<RawClient> {
    const client = new RawClient(await Deno.connect({ hostname: "127.0.0.1", port }));
    await client.write(text);
    return client;
  }

  /** Gives whether all of it was taken. */
  async write(text: string): Promise<boolean> {
    const bytes = new TextEncoder().encode(text);
    try {
      for (let at = 0; at < bytes.length;) at += await this.#connection.write(bytes.subarray(at));
      return true;
    } catch {
      return false; // the service has hung up
    }
  }

  /** The next bytes as text; empty when there will be no more. */
  async read(): Promise<string> {
    const bytes = new Uint8Array(4096);
    try {
      return new TextDecoder().decode(bytes.subarray(0, await this.#connection.read(bytes) ?? 0));
    } catch {
      return "";
    }
  }

  /** Everything up to the end of the connection. */
  async readAll(): Promise<string> {
    let text = "";
    for (let piece; (piece = await this.read()) !== "";) text += piece;
    return text;
  }

  [Symbol.dispose](): void {
    this.#connection.close();
  }
}

function head(fields: Record<string, string | number>): string {
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`).join("");
  return `POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n${lines}\r\n`;
}

const chunk = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`;

function generation(body: unknown): string {
  const text = JSON.stringify(body);
  return head({ "Content-Length": text.length }) + text;
}

describe("A fault", () => {
  let folder: string;
  let service: Service;
  let neighbourAlone: number[];
  let greedyAlone: number[];
  let files: number;

  const start = (...args: string[]) => Service.start("--model", `${folder}/artefact`, ...FLAGS, ...args);

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    await writeRandomArtefact(`${folder}/artefact`, { config: CONFIG, blockSize: 32, seed: 3, name: "tiny" });
    service = await start();
    neighbourAlone = await service.tokens(NEIGHBOUR);
    greedyAlone = await service.tokens(GREEDY);
    files = await filesWithoutClients();
  });
  afterAll(async () => {
    await service?.[Symbol.asyncDispose]();
    await Deno.remove(folder, { recursive: true });
  });

  /** Open files when every connection has been closed, which takes the service as long as its settings say. */
  async function filesWithoutClients(): Promise<number> {
    while (service.connections() > 0) await new Promise((resolve) => setTimeout(resolve, 20));
    return service.openFiles();
  }

  /**
   * Runs a fault beside a stream, and checks that the stream is the same as alone, that nothing is left of it (slots,
   * places, caches, connections, files), and that the next request is answered as ever.
   */
  function fault(name: string, cause: () => Promise<void>): void {
    it(`${name}: leaves nothing behind, and touches nobody else`, async () => {
      const tokensBefore = await service.stepTokens("decode");
      const neighbour = service.tokens(NEIGHBOUR);
      await service.metricBecomes("requests_running", 1);
      // Its prompt is read then, so that what is read from now on is of others.
      while (await service.stepTokens("decode") === tokensBefore);
      await cause();
      deepEqual(await neighbour, neighbourAlone);
      await service.isIdle();
      deepEqual(await service.tokens(GREEDY), greedyAlone);
      equal(await filesWithoutClients(), files);
    });
  }

  for (const stream of [false, true]) {
    const how = stream ? "of a stream" : "of one JSON";

    fault(`a client ${how} that leaves the queue`, async () => {
      const [holding, leaving] = [new AbortController(), new AbortController()];
      const holder = service.post(LONG_ANSWER, holding.signal).catch(() => "left");
      await service.metricBecomes("requests_running", SLOTS);
      const queued = [1, 2].map(() => service.post({ ...GREEDY, stream }, leaving.signal).catch(() => "left"));
      await service.metricBecomes("requests_waiting", 2);
      leaving.abort();
      await service.metricBecomes("requests_waiting", 0);
      // An answer that is streamed has begun, and breaks off.
      for (const answer of await Promise.all(queued)) ok(answer === "left" || stream);
      holding.abort();
      equal(await holder, "left");
    });

    const left = stream ? BROKEN_OFF : UNANSWERED;

    fault(`a client ${how} that leaves while its prompt is read`, async () => {
      const [before, tokensBefore] = [await service.metric(left), await service.stepTokens("prefill")];
      {
        using _client = await RawClient.connect(service.port, generation({ ...LONG_PROMPT, stream }));
        while (await service.stepTokens("prefill") === tokensBefore);
      }
      await service.metricBecomes(left, before + 1);
      const read = await service.stepTokens("prefill") - tokensBefore;
      ok(read < LONG_PROMPT.prompt_tokens.length, `all ${read} tokens were read`);
    });

    fault(`a client ${how} that leaves in the middle of its answer`, async () => {
      const before = await service.metric(left);
      {
        using _client = await RawClient.connect(service.port, generation({ ...LONG_ANSWER, stream }));
        await service.metricBecomes("requests_running", SLOTS);
        const tokensBefore = await service.stepTokens("decode");
        while (await service.stepTokens("decode") === tokensBefore);
      }
      await service.metricBecomes(left, before + 1);
    });
  }

  fault("a burst beyond the queue", async () => {
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, i) => service.post({ ...GREEDY, stream: i % 2 > 0 })),
    );
    const served = answers.filter(({ status }) => status === 200);
    const refused = answers.filter(({ status }) => status === 429);
    equal(served.length + refused.length, 40, answers.map(({ status }) => status).join());
    ok(served.length >= MAX_WAITING && refused.length > 0, `${served.length} served, ${refused.length} refused`);
    for (const answer of refused) {
      ok(Number(answer.headers.get("Retry-After")) >= 1);
      equal((await answer.json()).error.type, "overloaded_error");
    }
    await Promise.all(served.map((answer) => answer.text()));
  });

  fault("a reader that takes nothing", async () => {
    // About a kilobyte a token: 8 MB are more than a connection holds.
    const loud = { ...LONG_ANSWER, stream: true, logprobs: 20 };
    const before = await service.metric(BROKEN_OFF);
    using client = await RawClient.connect(service.port, generation(loud));
    await service.metricBecomes(BROKEN_OFF, before + 1);
    match(await client.read(), /^HTTP\/1\.1 200 /);
  });

  for (
    const [what, text, status] of [
      ["headers that do not end", "POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\n", 408],
      ["a body that does not come", head({ "Content-Length": 100 }), 408],
      ["a body that stops", `${head({ "Content-Length": 100 })}{"prompt"`, 408],
      ["a chunked body that stops", head({ "Transfer-Encoding": "chunked" }) + chunk('{"prompt"'), 408],
      ["bytes that are not HTTP", "\x16\x03\x01 hello\r\n\r\n", 400],
      ["a chunk without a size", `${head({ "Transfer-Encoding": "chunked" })}zz\r\n`, 400],
    ] as const
  ) {
    fault(what, async () => {
      using client = await RawClient.connect(service.port, text);
      const answer = await client.readAll();
      match(answer, new RegExp(`^HTTP/1\\.1 ${status} `));
      match(answer, /\{"error":\{"type":/);
    });
  }

  fault("a body that is announced too long", async () => {
    using client = await RawClient.connect(service.port, head({ "Content-Length": MAX_BODY_BYTES * 1000 }));
    await client.write("[".repeat(2 * MAX_BODY_BYTES));
    match(await client.read(), /^HTTP\/1\.1 413 /);
  });

  fault("a chunked body that is too long", async () => {
    using client = await RawClient.connect(service.port, head({ "Transfer-Encoding": "chunked" }));
    let sent = 0;
    while (sent < 100 && await client.write(chunk(" ".repeat(4096)))) sent++;
    match(await client.read(), /^HTTP\/1\.1 413 /);
  });

  fault("a client that goes in the middle of its body", async () => {
    for (let i = 0; i < 20; i++) {
      using _client = await RawClient.connect(service.port, `${head({ "Content-Length": 100 })}{"prompt"`);
    }
  });

  fault("connections that say nothing", async () => {
    const clients = await Promise.all(Array.from({ length: 50 }, () => RawClient.connect(service.port, "")));
    equal((await service.get("/readyz")).status, 200);
    for (const client of clients) {
      await client.readAll();
      client[Symbol.dispose]();
    }
  });

  it("SIGTERM in the middle of streams and a queue ends them when the time is up, and the process with 0", async () => {
    await using stopping = await start("--drain-seconds", "0.2");
    const streams = await Promise.all(
      [1, 2].map(() => stopping.post({ ...LONG_ANSWER, stream: true })),
    );
    const queued = stopping.post(GREEDY);
    await stopping.metricBecomes("requests_waiting", 1);
    stopping.signal("SIGTERM");
    await stopping.logged(/^Stopping/);
    for (const stream of streams) {
      const events = await Array.fromAsync(readEvents(stream));
      deepEqual([events.at(-1)!.event, events.at(-1)!.data.error.type], ["error", "unavailable_error"]);
    }
    equal((await queued).status, 503);
    equal((await stopping.status).code, 0);
  });

  it("kill -9 in the middle of a stream breaks it off; started again, the service answers as before", async () => {
    const dying = await start();
    const events = readEvents(await dying.post({ ...LONG_ANSWER, stream: true }));
    equal((await events.next()).value!.event, "start");
    await dying[Symbol.asyncDispose](); // it kills with SIGKILL
    const rest = await Array.fromAsync(events).catch(() => null);
    ok(rest === null || rest.at(-1)?.event !== "end", "the stream ended as if it were whole");
    await using again = await start();
    deepEqual(await again.tokens(GREEDY), greedyAlone);
  });

  it("a log that nobody reads holds nothing up, not even the end", async () => {
    await using unread = await Service.startWithUnreadLog("--log-prompts");
    const body = { prompt: "a".repeat(400), max_new_tokens: 1, temperature: 0 };
    // A pipe holds 64 KiB.
    for (let i = 0; i < 150; i++) await unread.json(body);
    equal((await unread.get("/livez")).status, 200);
    unread.signal("SIGTERM");
    equal((await unread.status).code, 0);
  });

  it("a Prometheus server that is not there, or never answers, is told of and holds nothing up", async () => {
    using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    for (const url of [`http://127.0.0.1:${silent.addr.port}`, "http://127.0.0.1:9"]) {
      await using watched = await start("--prometheus-url", url, "--prometheus-seconds", "0.1");
      deepEqual(await watched.tokens(NEIGHBOUR), neighbourAlone);
      equal((await watched.get("/readyz")).status, 200);
      equal(await watched.metric("load_sensor_fresh"), 0);
      match(await (await watched.get("/metrics")).text(), /^espalier_load_sensor_fresh 0$/m);
    }
  });

  it("a step that throws answers its requests with 500, and the service goes on", async () => {
    let broken = 0;
    const onStep = () => {
      if (broken > 0 && broken-- > 0) throw new Error("out of memory");
    };
    const { app, engine, gauges } = toyApp({ runner: new ToyRunner({ onStep, maxTokens: 256 }) });
    const server = await listen((request) => app.fetch(request), { hostname: "127.0.0.1", port: 0 });
    const post = (body: unknown) =>
      fetch(`http://127.0.0.1:${server.port}/generate`, { method: "POST", body: JSON.stringify(body) });
    const body = { prompt_tokens: [1, 2, 3], max_new_tokens: 8, temperature: 0 };
    const expected = await (await post(body)).json();
    for (let i = 0; i < 5; i++) {
      broken = 1;
      const failed = await post(body);
      equal(failed.status, 500);
      equal((await failed.json()).error.message, "A step of the model failed");
      broken = 1;
      const events = await Array.fromAsync(readEvents(await post({ ...body, stream: true })));
      equal(events.at(-1)!.event, "error");
      const { requests_running, requests_waiting, kv_cache_usage_ratio } = await gauges();
      deepEqual([requests_running, requests_waiting, kv_cache_usage_ratio], [0, 0, 0]);
      equal((await (await post(body)).json()).text, expected.text);
    }
    await engine.stop();
    await server.close();
  });
});
