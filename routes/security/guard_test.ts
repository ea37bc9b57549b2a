import { deepEqual, equal, match } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Hono } from "hono";
import type { Route } from "../route.ts";
import { toyApp } from "../testing/toy_app.ts";
import { ApiKeys } from "./api_keys.ts";
import { guard } from "./guard.ts";
import type { Security } from "./security.ts";

const KEY = "a key of sixteen";
const BODY = JSON.stringify({ prompt: "a", max_new_tokens: 1, temperature: 0 });
const OPEN: Security = { keys: null, metricsWithoutKey: false, hosts: null, origins: [] };

function secured(security: Partial<Security>) {
  const { app, gauges, registry, logged } = toyApp({}, { security: { ...OPEN, ...security } });
  const ask = async (path: string, headers: Record<string, string> = {}, method = "GET") => {
    const body = method === "POST" ? BODY : null;
    return await app.request(path, { method, headers, body });
  };
  return { ask, gauges, registry, logged };
}

describe("guard()", () => {
  it("wants a key where there are keys, but not of probes and the page", async () => {
    const { ask, registry } = secured({ keys: new ApiKeys([KEY]) });
    for (const path of ["/info", "/metrics", "/v1/models", "/nowhere", "/%69nfo", "//info", "/page"]) {
      const refused = await ask(path);
      deepEqual([refused.status, refused.headers.get("WWW-Authenticate")], [401, 'Bearer realm="espalier"'], path);
      equal((await refused.json()).error.type, "authentication_error");
    }
    equal((await ask("/generate", {}, "POST")).status, 401);
    for (const path of ["/livez", "/readyz", "/", "/docs", "/openapi.json"]) equal((await ask(path)).status, 200, path);
    const headers = { Authorization: `Bearer ${KEY}` };
    for (const path of ["/info", "/metrics", "/v1/models"]) equal((await ask(path, headers)).status, 200, path);
    equal((await ask("/generate", headers, "POST")).status, 200);
    match(await registry.metrics(), /^espalier_requests_total\{outcome="invalid",code="401"\} 8$/m);
  });

  it("wants no key where all routes of a path are open", async () => {
    const route: Omit<Route, "path"> = { method: "GET", operation: null, handler: () => (c) => c.text("") };
    const routes: Route[] = [
      { ...route, path: "/open/:name", open: true },
      { ...route, path: "/half", open: true },
      { ...route, path: "/half", method: "POST" },
    ];
    const app = new Hono();
    app.use(guard({ security: { ...OPEN, keys: new ApiKeys([KEY]) } }, routes));
    app.all("*", (c) => c.body(null, 204));
    app.onError((_error, c) => c.body(null, 401));
    for (const [path, status] of [["/open/a", 204], ["/open/", 401], ["/open/a/b", 401], ["/half", 401]] as const) {
      equal((await app.request(path)).status, status, path);
    }
  });

  it("leaves a line in the log of each generation that it refuses, and counts it once", async () => {
    const { ask, logged, registry } = secured({ keys: new ApiKeys([KEY]) });
    for (const path of ["/generate", "/v1/completions", "/v1/chat/completions"]) await ask(path, {}, "POST");
    await ask("/generate", { Origin: "https://evil.example" }, "POST");
    deepEqual(logged.map(({ event, route, code, outcome }) => [event, route, code, outcome]), [
      ["request", "/generate", 401, "invalid"],
      ["request", "/v1/completions", 401, "invalid"],
      ["request", "/v1/chat/completions", 401, "invalid"],
      ["request", "/generate", 403, "invalid"],
    ]);
    match(await registry.metrics(), /^espalier_requests_total\{outcome="invalid",code="401"\} 3$/m);
  });

  it("answers /metrics without a key if told so", async () => {
    const { ask } = secured({ keys: new ApiKeys([KEY]), metricsWithoutKey: true });
    deepEqual([(await ask("/metrics")).status, (await ask("/info")).status], [200, 401]);
  });

  it("refuses foreign hosts where hosts are checked, except of probes", async () => {
    const { ask } = secured({ hosts: ["box.local"] });
    for (const Host of ["localhost", "127.0.0.1:8080", "[::1]:80", "LOCALHOST:1", "box.local:8080"]) {
      equal((await ask("/info", { Host })).status, 200, Host);
    }
    for (const Host of ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:x", "a, b"]) {
      const refused = await ask("/info", { Host });
      deepEqual([refused.status, (await refused.json()).error.param], [403, "Host"], Host);
      equal((await ask("/livez", { Host })).status, 200);
    }
    equal((await ask("/info")).status, 403);
    equal((await secured({}).ask("/info", { Host: "evil.example" })).status, 200);
  });

  it("refuses pages of other origins, also to send what needs no preflight", async () => {
    const { ask } = secured({ origins: ["https://listed.example"] });
    const Host = "127.0.0.1:8080";
    for (const Origin of ["https://evil.example", "null", "http://127.0.0.1:9999", "https://listed.example:444"]) {
      const refused = await ask("/generate", { Host, Origin, "Content-Type": "text/plain" }, "POST");
      deepEqual([refused.status, refused.headers.get("Access-Control-Allow-Origin")], [403, null], Origin);
      equal((await ask("/generate", { Host, Origin, "Access-Control-Request-Method": "POST" }, "OPTIONS")).status, 403);
    }
    equal((await ask("/generate", { Host, Origin: `http://${Host}` }, "POST")).status, 200);
  });

  it("lets listed origins call, after a preflight without a key", async () => {
    const Origin = "https://listed.example";
    const { ask } = secured({ origins: [Origin], keys: new ApiKeys([KEY]) });
    const asked = { "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization" };
    const preflight = await ask("/generate", { Origin, ...asked }, "OPTIONS");
    const { headers } = preflight;
    deepEqual(
      [preflight.status, headers.get("Access-Control-Allow-Origin"), headers.get("Access-Control-Allow-Headers")],
      [204, Origin, "authorization"],
    );
    const answer = await ask("/generate", { Origin, Authorization: `Bearer ${KEY}` }, "POST");
    deepEqual([answer.status, answer.headers.get("Access-Control-Allow-Origin")], [200, Origin]);
    match(answer.headers.get("Access-Control-Expose-Headers")!, /X-Pruning-Rate/);
    equal(answer.headers.get("Vary"), "Origin");
    const refused = await ask("/generate", { Origin }, "POST");
    deepEqual([refused.status, refused.headers.get("Access-Control-Allow-Origin")], [401, Origin]);
  });
});
