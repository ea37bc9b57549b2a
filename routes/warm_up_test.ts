import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Engine, type EngineOptions, type StepTable } from "../engine/mod.ts";
import { TOY_TABLE } from "../engine/testing/toy_engine.ts";
import { ToyRunner } from "../engine/testing/toy_runner.ts";
import { type ChatMessage, ChatTemplateError } from "../models/chat_template.ts";
import type { Services } from "./services.ts";
import { toyApp } from "./testing/toy_app.ts";
import { warmUp } from "./warm_up.ts";

/** A service over a toy model whose steps take `stepMs` on the clock, and the time between two of them `betweenMs`. */
function timedApp(
  { stepMs = 10, betweenMs = 0, maxTokens = 64, table = TOY_TABLE, ...services }:
    & { stepMs?: number; betweenMs?: number; maxTokens?: number; table?: StepTable }
    & Partial<Services> = {},
) {
  const clock = { ms: 1000 };
  const now = () => clock.ms;
  const runner = new ToyRunner({ maxTokens, onStep: () => void (clock.ms += stepMs) });
  // It is asked for after each step.
  runner.likeliest = () => {
    clock.ms += betweenMs;
    return null;
  };
  const toy = toyApp({ runner, now, table }, { now, ...services });
  const engineWith = (own: Pick<EngineOptions, "metrics" | "learned">) => new Engine({ ...toy.engineOptions, ...own });
  return { ...toy, engineWith, runner };
}

describe("warmUp()", () => {
  it("answers until its time is up, and nobody sees it", async () => {
    const { services, engineWith, registry, logged, runner } = timedApp();
    const before = await registry.metrics();
    const { answers, ms } = await warmUp({ engineWith, services, budgetMs: 1000 });
    // One prompt of 16 letters in two chunks, then an answer of 48 tokens, in steps of 10 ms.
    deepEqual([answers, ms], [3, 3 * 490]);
    equal(runner.steps.length, 3 * 49);
    equal(await registry.metrics(), before);
    deepEqual([logged, runner.freeSlots], [[], 2]);
  });

  it("lets the engine that follows begin with the times that it learned", async () => {
    const { services, engineWith, engine } = timedApp({ stepMs: 15, betweenMs: 3 });
    const tokenMs = (of: typeof engine) => of.predicted(0).tokenMs;
    equal(tokenMs(engine), 10);
    const { learned } = await warmUp({ engineWith, services, budgetMs: 2000 });
    ok(Math.abs(tokenMs(engineWith({ metrics: services.metrics, learned })) - 18) < 0.5);
    equal(tokenMs(engine), 10);
  });

  it("asks a slow model for one short answer", async () => {
    const table = { ...TOY_TABLE, stepMs: TOY_TABLE.stepMs.map((ms) => ms.map(() => 10_000)) };
    const { services, engineWith, runner } = timedApp({ stepMs: 10_000, table });
    const { answers } = await warmUp({ engineWith, services, budgetMs: 400 });
    deepEqual([answers, runner.steps.map(([step]) => step)], [1, ["0:8", "0:8", "0:1"]]);
  });

  it("has a conversation where the model takes them", async () => {
    const heard: (readonly ChatMessage[])[] = [];
    const chatTemplate = { render: (messages: readonly ChatMessage[]) => (heard.push(messages), "abcabcabcabcabcabc") };
    const { services, engineWith, runner } = timedApp({ chatTemplate });
    await warmUp({ engineWith, services, budgetMs: 1 });
    equal(heard.length, 1, "the template has been started, however short the time");
    const { answers } = await warmUp({ engineWith, services, budgetMs: 5000 });
    deepEqual([answers, heard.length], [11, 1 + 1 + 2]);
    for (const [message] of heard) deepEqual(message, { role: "user", content: "Once upon a time" });
    equal(runner.freeSlots, 2);
  });

  const odd: readonly [string, Parameters<typeof timedApp>[0]][] = [
    ["without a tokenizer", { tokenizer: null }],
    ["with a tokenizer of other tokens", { model: { ...toyApp().services.model, vocabSize: 4 } }],
    ["that holds two tokens", { maxTokens: 2 }],
    ["that takes no conversation of ours", {
      chatTemplate: { render: () => Promise.reject(new ChatTemplateError("no")) },
    }],
    ["whose conversations are long", { chatTemplate: { render: () => "a".repeat(64) } }],
    ["behind keys, with limits that its requests would break", {
      security: { keys: null, metricsWithoutKey: false, hosts: ["example.org"], origins: [] },
      limits: { maxBodyBytes: 1, maxJsonDepth: 0, maxPromptLength: 1 },
    }],
  ];
  for (const [name, given] of odd) {
    it(`warms up a service ${name}`, async () => {
      const { services, engineWith } = timedApp(given);
      ok((await warmUp({ engineWith, services, budgetMs: 50 })).answers > 0);
    });
  }

  // The first answer takes 49 steps and comes whole, the second is a stream.
  for (const [failing, status] of [[1, 500], [60, 200]] as const) {
    it(`fails if the service cannot answer, in step ${failing}`, async () => {
      let steps = 0;
      const now = () => steps;
      const runner = new ToyRunner({ onStep: () => ++steps === failing && Promise.reject(new Error("no device")) });
      const { services, engineOptions } = toyApp({ runner, now }, { now });
      const engineWith = (own: Pick<EngineOptions, "metrics">) => new Engine({ ...engineOptions, ...own });
      const said = new RegExp(`cannot answer: ${status}, [^]*A step of the model failed`);
      await rejects(warmUp({ engineWith, services, budgetMs: 1000 }), said);
    });
  }
});
