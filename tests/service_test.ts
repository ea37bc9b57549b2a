import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openKernels } from "../kernels/native_library.ts";
import { openArtefact } from "../models/artefact.ts";
import { openCheckpoint } from "../models/checkpoint.ts";
import { openDecoder } from "../models/decoder.ts";
import type { ModelConfig } from "../models/description.ts";
import { writeRandomArtefact } from "../models/random_artefact.ts";
import { PRUNING_RATES } from "../models/widths.ts";
import { openRuntime } from "../onnx/mod.ts";
import { readEvents } from "../routes/testing/toy_app.ts";
import { Service } from "./support/service.ts";
import { writeTinyCheckpoint } from "./support/tiny_checkpoint.ts";
import { TINY_LLAMA } from "./support/tiny_models.ts";

/** Long answers, so that a client can leave one: it never ends by itself, and has room. */
const CONFIG: ModelConfig = { ...TINY_LLAMA, maxPositionEmbeddings: 4096, eosTokenIds: [] };
/** Made before a service starts, which may not run a compiler. */
const { kernels } = await openKernels();

/** Long enough that an answer of so many tokens, which takes half a second, outlasts what tests do meanwhile. */
const CONTEXT = 4096;
const SLOTS = 2;
const PROMPT = [40, 9, 77, 3, 3, 51];
const GREEDY = { prompt_tokens: PROMPT, max_new_tokens: 24, temperature: 0 };

describe("The service", () => {
  let folder: string;
  let service: Service;

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    await writeTinyCheckpoint(`${folder}/checkpoint`, TINY_LLAMA, 1);
    using checkpoint = await openCheckpoint(`${folder}/checkpoint`);
    const tokenizer = checkpoint.tokenizer!;
    await writeRandomArtefact(`${folder}/artefact`, {
      config: CONFIG,
      blockSize: 32,
      seed: 3,
      name: "tiny",
      tokenizer,
    });
    service = await startTiny();
  });
  afterAll(async () => {
    await service?.[Symbol.asyncDispose]();
    await Deno.remove(folder, { recursive: true });
  });

  function startTiny(...args: string[]): Promise<Service> {
    const context = ["--max-context", String(CONTEXT)];
    return Service.start("--model", `${folder}/artefact`, "--slots", String(SLOTS), ...context, ...args);
  }

  it("is ready and says what it serves", async () => {
    equal((await service.get("/livez")).status, 200);
    equal((await service.get("/readyz")).status, 200);
    const { model, levels, slots } = await (await service.get("/info")).json();
    deepEqual([model.name, model.context_tokens, model.tokenizer, slots], ["tiny", CONTEXT, true, SLOTS]);
    deepEqual(levels.map((level: { pruning_rate: number }) => level.pruning_rate), PRUNING_RATES);
  });

  it("answers in one JSON what it streams", async () => {
    const body = { ...GREEDY, pruning_rate: 0.15 };
    const { text, usage, finish_reason, pruning_rate, reason } = await service.json(body);
    deepEqual(usage, { prompt_tokens: PROMPT.length, completion_tokens: GREEDY.max_new_tokens });
    deepEqual([finish_reason, pruning_rate, reason], ["length", 0.15, "pinned"]);
    const response = await service.post({ ...body, stream: true });
    equal(response.headers.get("Content-Type"), "text/event-stream");
    const events = await Array.fromAsync(readEvents(response));
    equal(events.slice(1, -1).map(({ data }) => data.text).join(""), text);
    deepEqual(events.at(-1)!.data.usage, usage);
  });

  it("takes a prompt as text", async () => {
    const prompt = "The quick brown fox";
    const { text, usage } = await service.json({ prompt, max_new_tokens: 9, temperature: 0 });
    equal(usage.prompt_tokens, prompt.length);
    const prompt_tokens = [...prompt].map((character) => character.charCodeAt(0) - 32);
    equal((await service.json({ prompt_tokens, max_new_tokens: 9, temperature: 0 })).text, text);
  });

  it("runs every prepared rate when it is pinned, with the tokens that the model gives at it", async () => {
    const artefact = await openArtefact(`${folder}/artefact`);
    using decoder = await openDecoder(openRuntime(), {
      plan: artefact.plan,
      weights: artefact.weights(),
      folder: artefact.folder,
      lanes: 1,
      maxTokens: 64,
      maxRows: 64,
      threads: 1,
      operators: kernels?.path ?? null,
    });
    const answers = new Set<string>();
    for (const [level, pruning_rate] of PRUNING_RATES.entries()) {
      const sequence = decoder.openSequence(level);
      const expected: number[] = [];
      for (let tokens = PROMPT; expected.length < GREEDY.max_new_tokens; tokens = [expected.at(-1)!]) {
        const [logits] = await decoder.step([{ sequence, tokens, logits: "last" }]);
        expected.push(logits!.indexOf(Math.max(...logits!)));
      }
      sequence.close();
      deepEqual(await service.tokens({ ...GREEDY, pruning_rate }), expected, `rate ${pruning_rate}`);
      const response = await service.post({ ...GREEDY, pruning_rate });
      equal(response.headers.get("X-Pruning-Rate"), String(pruning_rate));
      equal((await response.json()).pruning_rate, pruning_rate);
      answers.add(expected.join());
    }
    ok(answers.size >= 4, `${answers.size} different answers`);
  });

  it("gives requests that run together exactly what each gets alone", async () => {
    const bodies = [
      { ...GREEDY, pruning_rate: 0, max_new_tokens: 200 },
      { ...GREEDY, prompt_tokens: [7, 8, 9], pruning_rate: 0.35, max_new_tokens: 150 },
    ];
    const alone: number[][] = [];
    for (const body of bodies) alone.push(await service.tokens(body));
    deepEqual(await Promise.all(bodies.map((body) => service.tokens(body))), alone);
    // More than there are slots, and in the other order.
    const many = [...bodies, ...bodies].reverse();
    deepEqual(await Promise.all(many.map((body) => service.tokens(body))), [...alone, ...alone].reverse());
    await service.isIdle();
  });

  it("fills the whole context, and not one token more", async () => {
    const prompt_tokens = Array.from({ length: CONTEXT / 2 }, (_, i) => i % 95);
    const full = { prompt_tokens, max_new_tokens: CONTEXT / 2, temperature: 0 };
    for (const pruning_rate of [0, 0.35]) {
      const { usage, finish_reason } = await service.json({ ...full, pruning_rate });
      deepEqual([usage.completion_tokens, finish_reason], [CONTEXT / 2, "length"]);
    }
    const { usage } = await service.json({ ...full, prompt_tokens: Array(CONTEXT - 1).fill(5), max_new_tokens: 1 });
    equal(usage.prompt_tokens, CONTEXT - 1);
    equal((await service.post({ ...full, max_new_tokens: CONTEXT / 2 + 1 })).status, 413);
  });

  describe("refuses a malformed request by the name of its field:", () => {
    const prompt = "a";
    const refusals: readonly [string, unknown, number, string | null][] = [
      ["an empty body", "", 400, null],
      ["no JSON", '{"prompt": "a"', 400, null],
      ["JSON and more", '{"prompt": "a"} {}', 400, null],
      ["no UTF-8", Uint8Array.of(0x22, 0xff, 0x22), 400, null],
      ["null", "null", 400, null],
      ["an array", "[]", 400, null],
      ["a number", "5", 400, null],
      ["a string", '"a"', 400, null],
      ["very deep JSON", `{"prompt":${"[".repeat(200_000)}${"]".repeat(200_000)}}`, 400, "prompt"],
      ["a body of more than a mebibyte", JSON.stringify({ prompt: "a".repeat(1 << 20) }), 413, null],
      ["no prompt", {}, 400, "prompt"],
      ["an empty prompt", { prompt: "" }, 400, "prompt"],
      ["a prompt of another type", { prompt: 5 }, 400, "prompt"],
      ["a prompt that is null", { prompt: null }, 400, "prompt"],
      ["a prompt of texts", { prompt: ["a"] }, 400, "prompt"],
      ["both prompts", { prompt, prompt_tokens: [1] }, 400, "prompt_tokens"],
      ["a prompt as long as the context", { prompt: "a".repeat(CONTEXT) }, 413, "prompt"],
      ["tokens as long as the context", { prompt_tokens: Array(CONTEXT).fill(1) }, 413, "prompt_tokens"],
      ["no tokens", { prompt_tokens: [] }, 400, "prompt_tokens"],
      ["tokens as text", { prompt_tokens: "1 2" }, 400, "prompt_tokens"],
      ["half a token", { prompt_tokens: [1, 1.5] }, 400, "prompt_tokens.1"],
      ["a negative token", { prompt_tokens: [-1] }, 400, "prompt_tokens.0"],
      ["a token as text", { prompt_tokens: ["1"] }, 400, "prompt_tokens.0"],
      ["a token outside the vocabulary", { prompt_tokens: [1, 2, 96] }, 400, "prompt_tokens.2"],
      ["a token beyond 32 bits", { prompt_tokens: [2 ** 40] }, 400, "prompt_tokens.0"],
      ["an unknown field", { prompt, max_tokens: 5 }, 400, "max_tokens"],
      ["a field of every object", '{"prompt":"a","__proto__":{}}', 400, "__proto__"],
      ["an inherited name", { prompt, constructor: 1 }, 400, "constructor"],
      ["no new tokens", { prompt, max_new_tokens: 0 }, 400, "max_new_tokens"],
      ["half a new token", { prompt, max_new_tokens: 1.5 }, 400, "max_new_tokens"],
      ["new tokens as text", { prompt, max_new_tokens: "5" }, 400, "max_new_tokens"],
      ["new tokens without end", '{"prompt":"a","max_new_tokens":1e999}', 400, "max_new_tokens"],
      ["more new tokens than the context", { prompt, max_new_tokens: CONTEXT }, 413, "max_new_tokens"],
      ["a budget of nothing", { prompt, latency_budget_ms: 0 }, 400, "latency_budget_ms"],
      ["a budget as text", { prompt, latency_budget_ms: "fast" }, 400, "latency_budget_ms"],
      ["a negative first-token budget", { prompt, ttft_budget_ms: -1 }, 400, "ttft_budget_ms"],
      ["a per-token budget of days", { prompt, tpot_budget_ms: 1e9 }, 400, "tpot_budget_ms"],
      ["a floor above 1", { prompt, max_pruning_rate: 1.5 }, 400, "max_pruning_rate"],
      ["a floor that is not prepared", { prompt, max_pruning_rate: 0.12 }, 422, "max_pruning_rate"],
      ["a rate as text", { prompt, pruning_rate: "0" }, 400, "pruning_rate"],
      ["a negative rate", { prompt, pruning_rate: -0.05 }, 400, "pruning_rate"],
      ["a rate that is not prepared", { prompt, pruning_rate: 0.12 }, 422, "pruning_rate"],
      ["a rate above the floor", { prompt, pruning_rate: 0.35, max_pruning_rate: 0.05 }, 400, "pruning_rate"],
      ["an unknown way out", { prompt, on_miss: "panic" }, 400, "on_miss"],
      ["a negative temperature", { prompt, temperature: -1 }, 400, "temperature"],
      ["a temperature that is null", { prompt, temperature: null }, 400, "temperature"],
      ["a negative top_k", { prompt, top_k: -1 }, 400, "top_k"],
      ["a top_p above 1", { prompt, top_p: 1.01 }, 400, "top_p"],
      ["a negative min_p", { prompt, min_p: -0.1 }, 400, "min_p"],
      ["a repetition penalty of 0", { prompt, repetition_penalty: 0 }, 400, "repetition_penalty"],
      ["a presence penalty of 3", { prompt, presence_penalty: 3 }, 400, "presence_penalty"],
      ["a frequency penalty of -3", { prompt, frequency_penalty: -3 }, 400, "frequency_penalty"],
      ["a negative seed", { prompt, seed: -1 }, 400, "seed"],
      ["a seed of 33 bits", { prompt, seed: 2 ** 32 }, 400, "seed"],
      ["a stop that is no list", { prompt, stop: "x" }, 400, "stop"],
      ["an empty stop", { prompt, stop: ["a", ""] }, 400, "stop.1"],
      ["nine stops", { prompt, stop: Array(9).fill("a") }, 400, "stop"],
      ["a stop of half a character", '{"prompt":"a","stop":["\\ud800"]}', 400, "stop.0"],
      ["too many log-probabilities", { prompt, logprobs: 21 }, 400, "logprobs"],
      ["log-probabilities as a boolean", { prompt, logprobs: true }, 400, "logprobs"],
      ["stream as text", { prompt, stream: "yes" }, 400, "stream"],
      ["a bad field in a stream", { prompt, stream: true, top_k: "all" }, 400, "top_k"],
    ];
    for (const [name, body, status, param] of refusals) {
      it(name, async () => {
        const response = await service.post(body);
        const { error } = await response.json();
        deepEqual([response.status, error?.param, error?.type], [status, param, "invalid_request_error"]);
        ok(error.message.length > 5 && !/\bat .*:\d+|\/work|\.ts\b/.test(error.message), error.message);
      });
    }

    it("and answers afterwards as before", async () => {
      await service.isIdle();
      equal((await service.json(GREEDY)).usage.completion_tokens, GREEDY.max_new_tokens);
    });
  });

  it("names all fields at fault in the message", async () => {
    const { error } = await (await service.post({ prompt: "", top_p: 2, seed: "x", extra: 1 })).json();
    for (const field of ["prompt", "top_p", "seed", "extra"]) match(error.message, new RegExp(field));
  });

  it("frees the slot of a client that leaves a stream, and no other's", async () => {
    const long = { ...GREEDY, max_new_tokens: CONTEXT - PROMPT.length, stream: true };
    const cancelled = 'requests_total{outcome="cancelled",code="200"}';
    const other = { ...GREEDY, max_new_tokens: 300 };
    const expected = await service.tokens(other);
    const [before, decodedBefore] = [await service.metric(cancelled), await service.stepTokens("decode")];
    const times = 4;
    for (let i = 1; i <= times; i++) {
      const leaving = new AbortController();
      const response = await service.post(long, leaving.signal);
      const staying = service.tokens(other);
      const events = readEvents(response);
      for (let read = 0; read < 3; read++) await events.next();
      leaving.abort();
      await events.next().catch(() => {});
      await service.metricBecomes(cancelled, before + i);
      deepEqual(await staying, expected);
    }
    await service.isIdle();
    const decoded = await service.stepTokens("decode") - decodedBefore;
    const whole = times * (long.max_new_tokens + other.max_new_tokens);
    ok(decoded >= times * other.max_new_tokens && decoded < whole, `${decoded} tokens of ${whole}`);
  });

  it("frees the slots and places of clients that leave while they wait for an answer", async () => {
    const long = { ...GREEDY, max_new_tokens: CONTEXT - PROMPT.length };
    const cancelled = 'requests_total{outcome="cancelled",code="499"}';
    const before = await service.metric(cancelled);
    const leaving = new AbortController();
    const answers = Array.from({ length: SLOTS + 2 }, () => service.post(long, leaving.signal).catch(() => "left"));
    await service.metricBecomes("requests_running", SLOTS);
    await service.metricBecomes("requests_waiting", 2);
    leaving.abort();
    deepEqual(await Promise.all(answers), Array(SLOTS + 2).fill("left"));
    await service.metricBecomes(cancelled, before + SLOTS + 2);
    await service.isIdle();
    equal((await service.json(GREEDY)).usage.completion_tokens, GREEDY.max_new_tokens);
  });

  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    it(`ends with 0 on ${signal}, after what runs, and takes nothing new`, async () => {
      await using stopping = await startTiny("--drain-seconds", "3600");
      const response = await stopping.post({ ...GREEDY, max_new_tokens: 1000, stream: true });
      const events = readEvents(response);
      equal((await events.next()).value!.event, "start");
      stopping.signal(signal);
      await stopping.logged(/^Stopping/);
      const refused = await stopping.post(GREEDY);
      deepEqual([refused.status, (await refused.json()).error.type], [503, "unavailable_error"]);
      equal((await stopping.get("/readyz")).status, 503);
      const rest = await Array.fromAsync(events);
      deepEqual([rest.at(-1)!.event, rest.at(-1)!.data.usage.completion_tokens], ["end", 1000]);
      deepEqual(await stopping.status, { success: true, code: 0, signal: null });
    });
  }

  it("goes on when its terminal is closed, if it was started with nohup", async () => {
    await using shielded = await Service.startShielded("--model", `${folder}/artefact`, "--slots", String(SLOTS));
    shielded.signal("SIGHUP");
    equal((await shielded.json(GREEDY)).usage.completion_tokens, GREEDY.max_new_tokens);
    shielded.signal("SIGTERM");
    equal((await shielded.logged(/^Stopping on (\w+)/))[1], "SIGTERM");
    deepEqual(await shielded.status, { success: true, code: 0, signal: null });
  });

  it("ends at once with 1 on a second signal", async () => {
    await using stopping = await startTiny("--drain-seconds", "60");
    const response = await stopping.post({ ...GREEDY, max_new_tokens: CONTEXT - PROMPT.length, stream: true });
    stopping.signal("SIGTERM");
    await stopping.logged(/^Stopping on SIGTERM/);
    // One that comes at once is the first again, so they are sent until there is nobody to get them.
    const again = () => stopping.get("/readyz").then(() => stopping.signal("SIGTERM"));
    while (await again().then(() => true, () => false)) continue;
    equal((await stopping.status).code, 1);
    await response.text().catch(() => {});
  });

  it("takes signals that come together for one, as a terminal sends them to all of a group", async () => {
    await using stopping = await startTiny("--drain-seconds", "3600");
    const events = readEvents(await stopping.post({ ...GREEDY, max_new_tokens: 1000, stream: true }));
    equal((await events.next()).value!.event, "start");
    stopping.signal("SIGTERM");
    stopping.signal("SIGINT");
    deepEqual((await Array.fromAsync(events)).at(-1)!.event, "end");
    await stopping.logged(/^Stopped: all requests had ended$/);
    equal((await stopping.status).code, 0);
  });

  it("does not start with more caches than the machine has memory, and says how much they take", async () => {
    const config = {
      ...CONFIG,
      numAttentionHeads: 32,
      numKeyValueHeads: 32,
      headDim: 64,
      maxPositionEmbeddings: 1 << 20,
    };
    await writeRandomArtefact(`${folder}/long`, { config, blockSize: 32, seed: 1 });
    const child = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--allow-all", "main.ts", "--port", "0", "--model", `${folder}/long`],
        ...["--slots", "64", "--max-context", String(1 << 20)],
      ],
      cwd: fileURLToPath(new URL("..", import.meta.url)),
    }).output();
    equal(child.code, 1);
    // 64 slots, 2^20 tokens, keys and values of 2 layers, 32 heads of 64, 2 bytes each, which is the least.
    match(new TextDecoder().decode(child.stderr), /caches up to 1048576\.0 MiB, .* there are \d+/);
  });

  it("does not start on what is no artefact, and says why", async () => {
    const child = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--allow-all", "main.ts", "--port", "0", "--model", `${folder}/checkpoint`],
      cwd: fileURLToPath(new URL("..", import.meta.url)),
    }).output();
    equal(child.code, 1);
    match(new TextDecoder().decode(child.stderr), /Cannot start on .*checkpoint as an artefact: .*espalier\.json/);
  });
});
