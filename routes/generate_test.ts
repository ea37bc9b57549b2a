import { deepEqual, equal, fail, match, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Gate } from "../engine/testing/toy_engine.ts";
import { toyAnswer, ToyRunner } from "../engine/testing/toy_runner.ts";
import { toyTokenizer } from "../engine/testing/toy_tokenizer.ts";
import { BodyRoom } from "./body_room.ts";
import { post, readEvents, toyApp } from "./testing/toy_app.ts";

const GREEDY = { prompt: "abc", max_new_tokens: 4, temperature: 0 };
const textOf = (tokens: number[]) => {
  const stream = toyTokenizer.stream({ continues: true });
  return tokens.map((token) => stream.push(token)).join("") + stream.flush();
};
const idle = { requests_running: 0, requests_waiting: 0, kv_cache_usage_ratio: 0 };
async function isIdle(gauges: () => Promise<Record<string, number>>): Promise<void> {
  const found = await gauges();
  deepEqual(Object.fromEntries(Object.keys(idle).map((name) => [name, found[name]])), idle);
}

describe("POST /generate", () => {
  it("answers with text, usage, rate, budget and times", async () => {
    const { app } = toyApp();
    const response = await post(app, { ...GREEDY, latency_budget_ms: 40 });
    equal(response.status, 200);
    equal(response.headers.get("X-Pruning-Rate"), "0.15");
    equal(response.headers.get("X-Predicted-Ms"), "33.3");
    deepEqual(await response.json(), {
      id: "id-0",
      model: "toy",
      pruning_rate: 0.15,
      mean_pruning_rate: 0.15,
      reason: "budget",
      usage: { prompt_tokens: 3, completion_tokens: 4 },
      finish_reason: "length",
      budget: {
        latency_budget_ms: 40,
        ttft_budget_ms: null,
        tpot_budget_ms: null,
        predicted_ms: 33.3,
        predicted_ms_at_rate_0: 41.7,
        met: true,
      },
      timings_ms: { queue: 0, prefill: 0, decode: 0, total: 0 },
      text: textOf(toyAnswer([1, 2, 3], 1, 4)),
    });
  });

  it("takes JSON without a content type, and as the form that curl -d calls it", async () => {
    const { app } = toyApp();
    const bytes = new TextEncoder().encode(JSON.stringify(GREEDY));
    equal((await post(app, "", { body: bytes })).status, 200);
    const headers = { "Content-Type": "application/x-www-form-urlencoded" };
    equal((await post(app, GREEDY, { headers })).status, 200);
  });

  it("takes tokens in place of text", async () => {
    const { app } = toyApp();
    const whole = { prompt_tokens: [1, 2, 3], max_new_tokens: 4, temperature: 0, pruning_rate: 0.35 };
    const { text, reason, pruning_rate } = await (await post(app, whole)).json();
    deepEqual([text, reason, pruning_rate], [textOf(toyAnswer([1, 2, 3], 2, 4)), "pinned", 0.35]);
  });

  it("refuses a text that is too long before it makes tokens of it", async () => {
    const tokenizer = { ...toyTokenizer, encode: () => fail("it was turned into tokens") };
    const response = await post(toyApp({}, { tokenizer }).app, { prompt: "a".repeat(1001) });
    deepEqual([response.status, (await response.json()).error.param], [413, "prompt"]);
  });

  it("streams a start, tokens and an end", async () => {
    const { app } = toyApp();
    const response = await post(app, { ...GREEDY, stream: true, max_pruning_rate: 0, latency_budget_ms: 1 });
    equal(response.headers.get("Content-Type"), "text/event-stream");
    equal(response.headers.get("X-Pruning-Rate"), "0");
    const events = await Array.fromAsync(readEvents(response));
    deepEqual(events.map(({ event }) => event), ["start", "token", "token", "token", "token", "end"]);
    const { id, reason, budget } = events[0]!.data;
    deepEqual([id, reason, budget.predicted_ms], ["id-0", "floor", 41.7]);
    deepEqual(events[2]!.data.index, 1);
    const tokens = events.slice(1, -1).map(({ data }) => data.token);
    deepEqual(tokens, toyAnswer([1, 2, 3], 0, 4));
    const { text, finish_reason, usage } = events.at(-1)!.data;
    deepEqual([text, finish_reason, usage.completion_tokens], [undefined, "length", 4]);
  });

  it("streams the text that one answer has whole", async () => {
    const { app } = toyApp();
    for (const stop of [[], ["k"], ["zz", "é"]]) {
      for (const seed of [1, 2, 3]) {
        const body = { prompt: "abc", max_new_tokens: 30, temperature: 3, seed, stop };
        const { text } = await (await post(app, body)).json();
        const events = await Array.fromAsync(readEvents(await post(app, { ...body, stream: true })));
        equal(events.slice(1, -1).map(({ data }) => data.text).join(""), text);
        ok(stop.every((one) => !text.includes(one)));
      }
    }
  });

  it("runs requests at different rates together", async () => {
    const runner = new ToyRunner();
    const { app } = toyApp({ runner });
    const answers = await Promise.all([0, 0.35].map(async (pruning_rate) => {
      return await (await post(app, { ...GREEDY, pruning_rate })).json();
    }));
    deepEqual(answers.map(({ text }) => text), [0, 2].map((level) => textOf(toyAnswer([1, 2, 3], level, 4))));
    ok(runner.steps.some((step) => step.length === 2));
  });

  it("reports log-probabilities", async () => {
    const { app } = toyApp();
    const { logprobs } = await (await post(app, { ...GREEDY, logprobs: 2 })).json();
    equal(logprobs.length, 4);
    const [first] = logprobs;
    equal(first.text, textOf([first.token]));
    deepEqual(first.top[0], { token: first.token, text: first.text, logprob: first.logprob });
    ok(first.top[1].logprob < first.logprob);
    const [, token] = await Array.fromAsync(readEvents(await post(app, { ...GREEDY, logprobs: 0, stream: true })));
    deepEqual(token!.data.logprobs, { logprob: first.logprob, top: [] });
  });

  it("takes as many new tokens as fit when none are asked for", async () => {
    const { app } = toyApp();
    const { usage } = await (await post(app, { prompt: "abc", temperature: 0 })).json();
    equal(usage.completion_tokens, 61);
  });

  it("truncates at the budget", async () => {
    const clock = { ms: 0 };
    const runner = new ToyRunner({ onStep: () => void (clock.ms += 10) });
    const { app } = toyApp({ runner, now: () => clock.ms }, { now: () => clock.ms });
    const body = { ...GREEDY, max_new_tokens: 40, latency_budget_ms: 50, on_miss: "truncate", pruning_rate: 0 };
    const { finish_reason, usage, budget, timings_ms } = await (await post(app, body)).json();
    deepEqual([finish_reason, usage.completion_tokens, budget.met, timings_ms.total], ["budget", 5, true, 50]);
  });

  it("refuses with a time to come back when the budget cannot be met and that is wanted", async () => {
    const { app, logged } = toyApp();
    const response = await post(app, { ...GREEDY, latency_budget_ms: 1, on_miss: "reject" });
    deepEqual([response.status, response.headers.get("Retry-After")], [429, "1"]);
    match((await response.json()).error.message, /The budget cannot be met: at pruning rate 0.35/);
    equal(logged[0]!["outcome"], "rejected");
  });

  it("refuses when too many wait, and when it is stopping", async () => {
    const gate = new Gate();
    const { app, engine } = toyApp({ runner: new ToyRunner({ slots: 1, onStep: () => gate.pass() }), maxWaiting: 0 });
    const first = post(app, { ...GREEDY, max_new_tokens: 1 });
    await gate.reached;
    const second = await post(app, GREEDY);
    equal(second.status, 429);
    ok(Number(second.headers.get("Retry-After")) >= 1);
    const stopped = engine.stop();
    equal((await post(app, GREEDY)).status, 503);
    gate.open();
    equal((await first).status, 200);
    await stopped;
  });

  it("says of what has begun that it was cancelled, and of what waits that it was refused, when the service stops", async () => {
    const gate = new Gate();
    const { app, engine, logged } = toyApp({ runner: new ToyRunner({ slots: 1, onStep: () => gate.pass() }) });
    const answers = [post(app, GREEDY), post(app, GREEDY)];
    await gate.reached;
    const aborted = engine.abort();
    deepEqual((await Promise.all(answers)).map(({ status }) => status), [503, 503]);
    const outcomes = logged.map(({ id, outcome }) => `${id} ${outcome}`);
    deepEqual(outcomes.sort(), ["id-0 cancelled", "id-1 rejected"]);
    gate.open();
    await aborted;
  });

  it("answers other routes while a step runs", async () => {
    const gate = new Gate();
    const { app } = toyApp({ runner: new ToyRunner({ onStep: () => gate.pass() }) });
    const answer = post(app, { ...GREEDY, max_new_tokens: 1 });
    await gate.reached;
    equal((await app.request("/livez")).status, 200);
    match(await (await app.request("/metrics")).text(), /^espalier_requests_running 1$/m);
    gate.open();
    equal((await answer).status, 200);
  });

  for (const stream of [false, true]) {
    const kind = stream ? "streamed" : "whole";
    it(`frees everything when the client of a ${kind} answer leaves in the queue, the prompt or the answer`, async () => {
      const long = "a".repeat(20);
      for (const [prompt, steps] of [["abc", 0], [long, 0], [long, 1], [long, 4]] as const) {
        const gate = new Gate();
        const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
        const { app, gauges, logged } = toyApp({ runner });
        const busy = prompt === "abc";
        if (busy) void post(app, { ...GREEDY, max_new_tokens: 1 });
        const client = new AbortController();
        const answer = post(app, { ...GREEDY, prompt, max_new_tokens: 9, stream }, { signal: client.signal });
        await gate.reached;
        for (let step = 0; step < steps; step++) {
          gate.open();
          await gate.reached;
        }
        client.abort();
        gate.open();
        const response = await answer;
        if (stream && !busy) {
          const events = await Array.fromAsync(readEvents(response));
          deepEqual(events.at(-1)!.event, "error");
        } else equal(response.status, 499);
        await turns();
        await isIdle(gauges);
        equal(runner.freeSlots, 1);
        equal(logged.find(({ id }) => id === (busy ? "id-1" : "id-0"))!["outcome"], "cancelled");
      }
    });
  }

  it("frees everything when the reader of a stream goes away", async () => {
    for (const events of [0, 1, 3]) {
      const gate = new Gate();
      const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
      const { app, gauges, logged } = toyApp({ runner });
      const answer = post(app, { ...GREEDY, stream: true });
      const reader = (await answer).body!.getReader();
      for (let i = 0; i < events; i++) {
        await gate.reached;
        gate.open();
        await reader.read();
      }
      await gate.reached;
      const cancelled = reader.cancel();
      gate.open();
      await cancelled;
      await turns();
      await isIdle(gauges);
      equal(runner.freeSlots, 1);
      deepEqual(logged.map(({ outcome }) => outcome), ["cancelled"]);
    }
  });

  it("answers 500 without details when a step fails, and logs them", async () => {
    const runner = new ToyRunner({ onStep: () => Promise.reject(new Error("secret detail")) });
    const { app, logged, gauges } = toyApp({ runner });
    const response = await post(app, GREEDY);
    equal(response.status, 500);
    deepEqual(await response.json(), {
      error: { type: "server_error", message: "A step of the model failed", param: null },
    });
    match(String(logged[0]!["error"]), /secret detail/);
    const events = await Array.fromAsync(readEvents(await post(app, { ...GREEDY, stream: true })));
    deepEqual(events.map(({ event }) => event), ["start", "error"]);
    equal(events[1]!.data.error.message, "A step of the model failed");
    await isIdle(gauges);
  });

  it("logs one line without text and counts the request", async () => {
    const { app, logged, registry } = toyApp();
    await post(app, { ...GREEDY, pruning_rate: 0.15 });
    deepEqual(logged, [{
      event: "request",
      id: "id-0",
      route: "/generate",
      code: 200,
      outcome: "length",
      pruning_rate: 0.15,
      mean_pruning_rate: 0.15,
      reason: "pinned",
      prompt_tokens: 3,
      completion_tokens: 4,
      budget_met: null,
      timings_ms: { queue: 0, prefill: 0, decode: 0, total: 0 },
    }]);
    match(await registry.metrics(), /^espalier_requests_total\{outcome="length",code="200"\} 1$/m);
  });

  it("logs prompts only where it was told to, those of refused requests too", async () => {
    const { app, logged } = toyApp({}, { logPrompts: true });
    await post(app, GREEDY);
    await post(app, { prompt_tokens: [3, 1], max_new_tokens: 4 });
    await post(app, { ...GREEDY, pruning_rate: 0.2 });
    deepEqual(logged.map(({ code, prompt }) => [code, prompt]), [[200, "abc"], [200, [3, 1]], [422, "abc"]]);
  });

  describe("refuses", () => {
    const cases: [what: string, body: unknown, status: number, param: string | null, message: RegExp][] = [
      ["text that is no JSON", "{prompt", 400, null, /not valid JSON/],
      ["an empty body", "", 400, null, /empty/],
      ["a body that is no object", "[1]", 400, null, /expected object/],
      ["an unknown field without a name", { ...GREEDY, "": 1 }, 400, "", /^: Unrecognized/],
      ["no object", [], 400, null, /object/],
      ["a key twice", '{"prompt":"a","prompt":"b"}', 400, "prompt", /^prompt: the object has this key twice$/],
      ["a key twice, further in", '{"prompt":[1,{"a":0,"a":0}]}', 400, "prompt.1.a", /^prompt\.1\.a: the object/],
      ["unknown fields", { ...GREEDY, promt: 1 }, 400, "promt", /promt/],
      ["a body without a prompt", {}, 400, "prompt", /prompt or prompt_tokens/],
      ["two prompts", { prompt: "a", prompt_tokens: [1] }, 400, "prompt_tokens", /not both/],
      ["an empty prompt", { prompt: "" }, 400, "prompt", /prompt/],
      ["no tokens", { prompt_tokens: [] }, 400, "prompt_tokens", /prompt_tokens/],
      ["tokens that are none", { prompt_tokens: [1, 1.5] }, 400, "prompt_tokens.1", /prompt_tokens.1/],
      ["many tokens that are none, by the first", { prompt_tokens: [1, ..."ab"] }, 400, "prompt_tokens.1", /^[^;]*$/],
      [
        "a seed beyond integers, by its own bound",
        { ...GREEDY, seed: 1e300 },
        400,
        "seed",
        /^seed: Too big[^;]*4294967295$/,
      ],
      ["too many values", { ...GREEDY, stop: Array(1 << 15).fill("") }, 400, null, /more than 32768 values/],
      ["many unknown fields", Object.fromEntries([...Array(9999).keys()].map((i) => [`k${i}`, 1])), 400, "k0", /…$/],
      ["an unknown field with a long name", { ["k".repeat(5000)]: 1 }, 400, `${"k".repeat(200)}…`, /…$/],
      ["foreign tokens", { prompt_tokens: [1, 32] }, 400, "prompt_tokens.1", /vocabulary of 32/],
      ["a negative temperature", { ...GREEDY, temperature: -1 }, 400, "temperature", /temperature/],
      ["a number as text", { ...GREEDY, top_k: "5" }, 400, "top_k", /expected number/],
      ["a top_p above 1", { ...GREEDY, top_p: 1.1 }, 400, "top_p", /top_p/],
      ["nine stop strings", { ...GREEDY, stop: [..."abcdefghi"] }, 400, "stop", /stop/],
      ["an empty stop string", { ...GREEDY, stop: ["a", ""] }, 400, "stop.1", /stop.1/],
      ["half a character to stop at", { ...GREEDY, stop: ["\ud800"] }, 400, "stop.0", /surrogate/],
      ["a budget of nothing", { ...GREEDY, latency_budget_ms: 0 }, 400, "latency_budget_ms", /latency_budget_ms/],
      ["an endless budget", { ...GREEDY, ttft_budget_ms: 1e9 }, 400, "ttft_budget_ms", /ttft_budget_ms/],
      ["an unknown way to miss", { ...GREEDY, on_miss: "wait" }, 400, "on_miss", /on_miss/],
      ["a seed out of range", { ...GREEDY, seed: 2 ** 32 }, 400, "seed", /seed/],
      ["no new tokens", { ...GREEDY, max_new_tokens: 0 }, 400, "max_new_tokens", /max_new_tokens/],
      ["a rate above 1", { ...GREEDY, pruning_rate: 7 }, 400, "pruning_rate", /^pruning_rate: Too big[^;]*$/],
      [
        "a pin above the floor",
        { ...GREEDY, pruning_rate: 0.35, max_pruning_rate: 0.15 },
        400,
        "pruning_rate",
        /above/,
      ],
      ["a rate that is not prepared", { ...GREEDY, pruning_rate: 0.2 }, 422, "pruning_rate", /0, 0.15, 0.35/],
      ["a floor that is not prepared", { ...GREEDY, max_pruning_rate: 0.2 }, 422, "max_pruning_rate", /0, 0.15, 0.35/],
      ["a prompt that is too long", { prompt: "a".repeat(64) }, 413, "prompt", /64 tokens/],
      [
        "an answer that is too long",
        { ...GREEDY, max_new_tokens: 62 },
        413,
        "max_new_tokens",
        /together they can be 64/,
      ],
      ["a body that is too long", { prompt: "a".repeat(1 << 20) }, 413, null, /limit is 1048576 bytes/],
    ];
    for (const [what, body, status, param, message] of cases) {
      it(what, async () => {
        const { app, logged, gauges } = toyApp();
        const response = await post(app, body);
        equal(response.status, status);
        const { error } = await response.json();
        deepEqual(Object.keys(error).sort(), ["message", "param", "type"]);
        deepEqual([error.type, error.param], ["invalid_request_error", param]);
        match(error.message, message);
        equal(logged[0]!["outcome"], "invalid");
        equal((await gauges())["requests_arrived_total"], 0);
      });
    }

    it("text, where the model has no tokenizer", async () => {
      const { app } = toyApp({}, { tokenizer: null });
      equal((await post(app, GREEDY)).status, 400);
      equal((await post(app, { prompt_tokens: [1], stop: ["a"] })).status, 400);
      const { text } = await (await post(app, { prompt_tokens: [1, 2], max_new_tokens: 2, temperature: 0 })).json();
      equal(text, "");
    });

    it("bytes that are no text", async () => {
      const { app } = toyApp();
      const response = await post(app, "", { body: Uint8Array.of(0x22, 0xff, 0x22) });
      match((await response.json()).error.message, /UTF-8/);
    });

    it("the oldest of the bodies that are on their way when there is no more room for them", async () => {
      const { app, gauges } = toyApp({}, { bodyRoom: new BodyRoom(100) });
      const text = JSON.stringify({ prompt: "a", max_new_tokens: 1 }).padEnd(60);
      const slow = () => {
        let controller: ReadableStreamDefaultController<Uint8Array>;
        const body = new ReadableStream({ start: (own) => void (controller = own) });
        const answer = post(app, "", { body });
        return { answer, send: (part: string) => controller.enqueue(encode(part)), end: () => controller.close() };
      };
      const [first, second] = [slow(), slow()];
      first.send(text);
      await turns();
      second.send(text);
      const refused = await first.answer;
      deepEqual([refused.status, refused.headers.get("Retry-After")], [429, "1"]);
      match((await refused.json()).error.message, /^Too many bodies come at once/);
      second.end();
      equal((await second.answer).status, 200);
      // Whoever alone is too much has to go too, and room is free again.
      equal((await post(app, text.padEnd(101))).status, 429);
      for (let i = 0; i < 3; i++) equal((await post(app, text.padEnd(100))).status, 200);
      equal((await gauges())["requests_running"], 0);
    });

    it("a long body without a declared length as soon as it is too long", async () => {
      const { app } = toyApp();
      let sent = 0;
      const body = new ReadableStream({
        pull(controller) {
          sent += 1 << 16;
          controller.enqueue(new Uint8Array(1 << 16).fill(0x20));
        },
      });
      equal((await post(app, "", { body })).status, 413);
      ok(sent < 2 << 20);
    });
  });
});

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Lets everything run that can. */
function turns(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
