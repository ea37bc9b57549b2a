import { deepEqual, equal, match, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { ROUTES } from "./app.ts";
import { ErrorBody, GenerateAnswer } from "./answer_schemas.ts";
import { openApiDocument } from "./openapi.ts";
import type { Route } from "./route.ts";
import { post, toyApp } from "./testing/toy_app.ts";

describe("openApiDocument()", () => {
  it("lists the routes that there are, and no others", () => {
    const { app } = toyApp();
    const served = app.routes.filter(({ method, path }) => method !== "ALL" && !path.startsWith("/page/"));
    const { paths } = openApiDocument("1", ROUTES) as { paths: Record<string, Record<string, unknown>> };
    const described = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`)
    );
    const named = served.map(({ method, path }) => `${method} ${path.replace(/:(\w+)/, "{$1}")}`);
    deepEqual(described.sort(), [...new Set(named)].sort());
  });

  it("has all methods of a path, and says which need no key", () => {
    const route: Pick<Route, "path" | "handler"> = { path: "/a/:b", handler: () => (c) => c.text("") };
    const { paths } = openApiDocument("1", [
      { ...route, method: "GET", open: true, operation: { summary: "Reads" } },
      { ...route, method: "POST", operation: { summary: "Writes" } },
      { ...route, method: "GET", path: "/a/part", operation: null },
    ]);
    deepEqual(paths, { "/a/{b}": { get: { summary: "Reads", security: [] }, post: { summary: "Writes" } } });
  });

  it("refers only to schemas that it has, and says that bodies are closed", () => {
    const text = JSON.stringify(openApiDocument("1", ROUTES));
    const { components } = JSON.parse(text);
    for (const [, name] of text.matchAll(/#\/components\/schemas\/(\w+)/g)) ok(name! in components.schemas, name);
    for (const name of ["GenerateBody", "CompletionBody", "ChatBody"]) {
      equal(components.schemas[name].additionalProperties, false, name);
    }
    deepEqual([components.schemas.CompletionBody.required, components.schemas.ChatBody.required], [["prompt"], [
      "messages",
    ]]);
    const [{ oneOf: [message] }] = [components.schemas.ChatBody.properties.messages.items];
    deepEqual(message.required, ["role", "content"]);
  });

  it("describes what is answered", async () => {
    const { app } = toyApp();
    const answer = await post(app, { prompt: "a", max_new_tokens: 2, temperature: 0, logprobs: 1 });
    equal(GenerateAnswer.safeParse(await answer.json()).error, undefined);
    equal(ErrorBody.safeParse(await (await post(app, {})).json()).error, undefined);
  });

  it("is served, as it is and to read", async () => {
    const { app } = toyApp();
    equal((await (await app.request("/openapi.json")).json()).info.version, "0.0.0");
    const docs = await app.request("/docs");
    match(docs.headers.get("Content-Security-Policy")!, /^default-src 'none'/);
    match(await docs.text(), /<code>latency_budget_ms<\/code>/);
  });
});
