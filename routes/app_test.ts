import { deepEqual, equal, match, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Gate, TOY_TABLE } from "../engine/testing/toy_engine.ts";
import { registerProcessMetrics } from "../engine/mod.ts";
import { ToyRunner } from "../engine/testing/toy_runner.ts";
import { post, toyApp } from "./testing/toy_app.ts";

describe("createApp()", () => {
  it("says that it lives", async () => {
    const response = await toyApp().app.request("/livez");
    deepEqual([response.status, await response.json()], [200, { status: "alive" }]);
  });

  it("is ready until it stops, and says what runs", async () => {
    const { app, engine } = toyApp();
    const ready = await app.request("/readyz");
    deepEqual([ready.status, await ready.json()], [
      200,
      { status: "ready", engine: "toy 1.0", kernels: "stock", device: "cpu" },
    ]);
    await engine.stop();
    const draining = await app.request("/readyz");
    const { status, reason } = await draining.json();
    deepEqual([draining.status, status, reason], [503, "draining", "The service is stopping"]);
  });

  it("is not ready while a step hangs", async () => {
    const gate = new Gate();
    const { app, clock } = toyApp({ runner: new ToyRunner({ onStep: () => gate.pass() }) });
    const answer = post(app, { prompt: "a", max_new_tokens: 1 });
    await gate.reached;
    clock.ms += 31_000;
    const stalled = await app.request("/readyz");
    deepEqual([stalled.status, (await stalled.json()).status], [503, "stalled"]);
    const refused = await post(app, { prompt: "a", max_new_tokens: 1 });
    deepEqual([refused.status, (await refused.json()).error.type], [503, "unavailable_error"]);
    gate.open();
    await answer;
    equal((await app.request("/readyz")).status, 200);
  });

  it("answers 503 while the model is opened again, and while it cannot be", async () => {
    const runner = new ToyRunner({ onStep: () => Promise.reject(new Error("device lost")) });
    const gate = new Gate();
    const reopen = async () => {
      await gate.pass();
      throw new Error("no device");
    };
    const { app, engine } = toyApp({ runner, reopen });
    const body = { prompt: "a", max_new_tokens: 1 };
    for (let i = 0; i < 2; i++) equal((await post(app, body)).status, 500);
    await gate.reached;
    const isRefused = async (status: string) => {
      const ready = await app.request("/readyz");
      deepEqual([ready.status, (await ready.json()).status], [503, status]);
      const refused = await post(app, body);
      const { error } = await refused.json();
      deepEqual([refused.status, error.type], [503, "unavailable_error"]);
      match(error.message, /^Steps failed, and the model /);
      equal((await app.request("/livez")).status, 200);
    };
    await isRefused("reopening");
    gate.open();
    while (engine.state === "reopening") await Promise.resolve();
    await isRefused("broken");
  });

  it("lists the model by name and per rate", async () => {
    const { object, data } = await (await toyApp().app.request("/v1/models")).json();
    equal(object, "list");
    deepEqual(data.map(({ id }: { id: string }) => id), ["toy", "toy@0", "toy@0.15", "toy@0.35"]);
    deepEqual(data[0], { id: "toy", object: "model", created: 1_700_000_000, owned_by: "espalier" });
  });

  it("tells of one model by its name", async () => {
    const { app } = toyApp();
    const { data } = await (await app.request("/v1/models")).json();
    deepEqual(await (await app.request("/v1/models/toy@0.15")).json(), data[2]);
    const missing = await app.request("/v1/models/gpt");
    deepEqual([missing.status, (await missing.json()).error.param], [404, "model"]);
    equal((await app.request("/v1/models/toy", { method: "DELETE" })).headers.get("Allow"), "GET, HEAD");
  });

  it("describes the levels with what they cost now", async () => {
    const stepMs = TOY_TABLE.stepMs.map((times) => times.map((ms) => ms + 0.123));
    const { app } = toyApp({ table: { ...TOY_TABLE, stepMs } });
    const info = await (await app.request("/info")).json();
    deepEqual(info.levels[1], {
      pruning_rate: 0.15,
      kept_parameters: 850,
      bytes_per_token: 425,
      cache_bytes_per_token: 64,
      state_bytes_per_sequence: 850,
      perplexity: null,
      predicted_ms_per_token: 8.12,
      predicted_ms_per_prefill_chunk: [{ rows: 8, ms: 16.1 }],
    });
    deepEqual([info.model.context_tokens, info.slots, info.kernels], [64, 2, "stock"]);
    deepEqual(info.device, { kind: "cpu", name: null, reason: "asked for" });
  });

  it("gives metrics in Prometheus' format, or in OpenMetrics when asked, again and again", async () => {
    const { app } = toyApp();
    await post(app, { prompt: "a", max_new_tokens: 2 });
    for (let i = 0; i < 2; i++) {
      const plain = await app.request("/metrics");
      equal(plain.headers.get("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
      const text = await plain.text();
      match(text, /^# TYPE espalier_tokens_total counter$/m);
      match(text, /^espalier_tokens_total\{phase="decode",rate="0"\} 2$/m);
      match(text, /^espalier_slots 2$/m);

      const open = await app.request("/metrics", {
        headers: { Accept: "application/openmetrics-text; version=1.0.0" },
      });
      equal(open.headers.get("Content-Type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
      const openText = await open.text();
      match(openText, /^# TYPE espalier_tokens counter$/m);
      match(openText, /^espalier_tokens_total\{phase="decode",rate="0"\} 2$/m);
      match(openText, /^espalier_e2e_request_latency_seconds_bucket\{le="1\.0"\} 1$/m);
      ok(openText.endsWith("\n# EOF\n") && !openText.includes("\n\n"));
    }
  });

  for (
    const [accept, type] of [
      ["application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3", "application/openmetrics-text"],
      ["text/plain, Application/OpenMetrics-Text; q=0.01", "application/openmetrics-text"],
      ["application/openmetrics-text;q=0, text/plain", "text/plain"],
      ["application/openmetrics-text; version=1.0.0; q=0.00", "text/plain"],
      ["application/openmetrics-text-2", "text/plain"],
    ] as const
  ) {
    it(`gives metrics as ${type} to who accepts ${accept}`, async () => {
      const response = await toyApp().app.request("/metrics", { headers: { Accept: accept } });
      equal(response.headers.get("Content-Type")?.split(";")[0], type);
    });
  }

  it("gives in OpenMetrics a sum and a count of just the histograms without bounds below 0", async () => {
    const { app } = toyApp();
    await post(app, { prompt: "a", max_new_tokens: 2, latency_budget_ms: 1000 });
    const text = await (await app.request("/metrics", { headers: { Accept: "application/openmetrics-text" } })).text();
    const families = [...text.matchAll(/^# TYPE (\S+) histogram$/gm)].map((match) => match[1]!);
    const has = (family: string, pattern: string) => new RegExp(`^${family}_${pattern}`, "m").test(text);
    const below = families.filter((family) => has(family, 'bucket\\{.*le="-'));
    deepEqual(below, ["espalier_budget_slack_seconds"]);
    // Those with labels have no series yet.
    for (const family of families.filter((one) => has(one, "bucket"))) {
      const summed = !below.includes(family);
      deepEqual([has(family, "sum[{ ]"), has(family, "count[{ ]")], [summed, summed], family);
    }
    match(text, /^espalier_budget_slack_seconds_bucket\{le="\+Inf"\} 1$/m);
  });

  it("gives metrics of the process", async () => {
    const { app, registry } = toyApp();
    registerProcessMetrics(registry, 1_700_000_000);
    const text = await (await app.request("/metrics")).text();
    match(text, /^process_start_time_seconds 1700000000$/m);
    match(text, /^process_resident_memory_bytes [1-9]\d+$/m);
  });

  it("answers unknown paths and methods in the shape of all errors", async () => {
    const { app } = toyApp();
    const missing = await app.request("/nowhere");
    deepEqual([missing.status, await missing.json()], [404, {
      error: { type: "not_found_error", message: "There is no /nowhere", param: null },
    }]);
    const wrong = await app.request("/generate");
    deepEqual([wrong.status, wrong.headers.get("Allow")], [405, "POST"]);
    equal((await wrong.json()).error.message, "/generate takes POST");
    equal((await app.request("/v1/models/")).status, 404);
  });

  it("counts what it refuses, and logs a line of each status a minute, however many there are", async () => {
    const { app, clock, logged, registry } = toyApp();
    const scan = async () => {
      for (let i = 0; i < 100; i++) await app.request(`/wp-${i}.php?key=secret`);
    };
    await scan();
    await app.request("/generate", { method: "DELETE" });
    const refused = (code: number, method: string, path: string, message: string, unlogged: number) => {
      return { event: "refused", code, message, method, path, unlogged };
    };
    const first = [
      refused(404, "GET", "/wp-0.php", "There is no /wp-0.php", 0),
      refused(405, "DELETE", "/generate", "/generate takes POST", 0),
    ];
    deepEqual(logged, first);
    clock.ms += 59_999;
    await scan();
    deepEqual(logged, first);
    clock.ms += 1;
    await app.request(`/${"a".repeat(1000)}`);
    const { path, message, ...rest } = logged.at(-1)!;
    deepEqual([logged.length, rest], [3, { event: "refused", code: 404, method: "GET", unlogged: 199 }]);
    ok(String(path).length < 210 && String(message).length < 210);
    const text = await registry.metrics();
    match(text, /^espalier_requests_total\{outcome="invalid",code="404"\} 201$/m);
    match(text, /^espalier_requests_total\{outcome="invalid",code="405"\} 1$/m);
  });
});
