import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { BudgetError, NotReadyError, QueueFullError, StepError, StoppingError } from "./errors.ts";
import type { GenerationEnd, GenerationStart } from "./generation.ts";
import { StepCosts } from "./step_costs.ts";
import { collect, Gate, GREEDY, TOY_RATES, TOY_TABLE, toyEngine, toyRequest } from "./testing/toy_engine.ts";
import { toyAnswer, ToyRunner } from "./testing/toy_runner.ts";

const never = () => new AbortController().signal;
const idle = { requests_running: 0, requests_waiting: 0, waiting_prompt_tokens: 0, kv_cache_usage_ratio: 0 };

/** A runner whose steps all fail. */
function failing(): ToyRunner {
  return new ToyRunner({
    slots: 1,
    onStep: () => {
      throw new Error("device lost");
    },
  });
}

/** Lets everything run that can. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

async function isIdle(gauges: () => Promise<Record<string, number>>, runner: ToyRunner, slots = 2): Promise<void> {
  const found = await gauges();
  deepEqual(Object.fromEntries(Object.keys(idle).map((name) => [name, found[name]])), idle);
  equal(runner.freeSlots, slots);
}

describe("Engine", () => {
  it("gives a start, the model's tokens and an end", async () => {
    const { engine } = toyEngine();
    const { all, tokens } = await collect(engine.generate(toyRequest(), never()));
    deepEqual(tokens, toyAnswer([1, 2, 3], 0, 4));
    deepEqual(all.map(({ kind }) => kind), ["start", "token", "token", "token", "token", "end"]);
    const last = all.at(-1) as GenerationEnd;
    deepEqual([last.finishReason, last.completionTokens, last.choice.reason], ["length", 4, "idle"]);
  });

  it("runs requests of different rates in one step, each as if it were alone", async () => {
    const runner = new ToyRunner();
    const { engine } = toyEngine({ runner });
    const [wide, narrow] = await Promise.all([
      collect(engine.generate(toyRequest({ pinnedLevel: 0 }), never())),
      collect(engine.generate(toyRequest({ pinnedLevel: 2, promptTokens: [4, 5] }), never())),
    ]);
    deepEqual(wide.tokens, toyAnswer([1, 2, 3], 0, 4));
    deepEqual(narrow.tokens, toyAnswer([4, 5], 2, 4));
    ok(runner.steps.some((step) => step.includes("0:1") && step.includes("2:1")));
  });

  it("decodes while a long prompt comes in chunk by chunk", async () => {
    const runner = new ToyRunner();
    const { engine } = toyEngine({ runner });
    const long = Array.from({ length: 20 }, (_, i) => i % 7);
    const [, { tokens }] = await Promise.all([
      collect(engine.generate(toyRequest({ promptTokens: [1], maxNewTokens: 5 }), never())),
      collect(engine.generate(toyRequest({ promptTokens: long, maxNewTokens: 2, pinnedLevel: 1 }), never())),
    ]);
    deepEqual(tokens, toyAnswer(long, 1, 2));
    deepEqual(runner.steps.slice(0, 4), [["0:1"], ["0:1", "1:8"], ["0:1", "1:8"], ["0:1", "1:4"]]);
  });

  it("holds a prompt back while it would cost a running answer its budget, as it predicted", async () => {
    const clock = { ms: 1000 };
    const costs = new StepCosts(TOY_TABLE);
    for (const [latencyMs, chunksBeside] of [[90, 2], [68, 1], [56, 0]] as const) {
      const runner = new ToyRunner({
        onStep: (entries) => {
          const parts = entries.map(({ sequence: { level, length: context }, tokens }) => ({
            ...{ level, context, rows: tokens.length, phase: "decode" as const },
          }));
          clock.ms += costs.stepMs(parts);
        },
      });
      const { engine } = toyEngine({ runner, now: () => clock.ms });
      const [arrivedMs, pinnedLevel] = [clock.ms, 0];
      const budget = { latencyMs, ttftMs: null, tpotMs: null };
      const short = toyRequest({ arrivedMs, pinnedLevel, promptTokens: [1], maxNewTokens: 5, budget });
      const long = toyRequest({ arrivedMs, pinnedLevel, promptTokens: new Array(16).fill(1), maxNewTokens: 1 });
      const first = engine.generate(short, never());
      const second = collect(engine.generate(long, never()));
      const [{ end }, { end: later }] = [await collect(first), await second];
      const beside = runner.steps.filter((step) => step.length === 2 && step.includes("0:8")).length;
      deepEqual([beside, (end as GenerationEnd).budgetMet], [chunksBeside, true], `${runner.steps.join(" ")}`);
      const { choice: { predictedMs }, timings: { totalMs } } = later as GenerationEnd;
      ok(Math.abs(predictedMs - totalMs) < 1e-6, `${predictedMs} ms predicted, ${totalMs} taken`);
    }
  });

  it("repeats a seeded answer, alone and in a batch", async () => {
    const { engine } = toyEngine();
    const request = toyRequest({ maxNewTokens: 20, sampling: { ...GREEDY, temperature: 2, seed: 7 } });
    const { tokens } = await collect(engine.generate(request, never()));
    const [again, other] = await Promise.all([
      collect(engine.generate(request, never())),
      collect(engine.generate({ ...request, sampling: { ...request.sampling, seed: 8 } }, never())),
    ]);
    deepEqual(again.tokens, tokens);
    ok(`${other.tokens}` !== `${tokens}`);
  });

  it("stops after a token that ends the answer, or when it is told to", async () => {
    const { engine } = toyEngine();
    const [first, second] = toyAnswer([1, 2, 3], 0, 2);
    const eos = await collect(engine.generate(toyRequest({ eosTokenIds: [second!] }), never()));
    const told = await collect(engine.generate(toyRequest({ endsAfter: (token) => token === first }), never()));
    deepEqual([eos.tokens, (eos.end as GenerationEnd).finishReason], [[first, second], "stop"]);
    deepEqual([told.tokens, (told.end as GenerationEnd).finishReason], [[first], "stop"]);
  });

  it("reports the times of all phases and whether the budget was met", async () => {
    const gate = new Gate();
    const { engine, clock } = toyEngine({ runner: new ToyRunner({ onStep: () => gate.pass() }) });
    const budget = { latencyMs: 100, ttftMs: 20, tpotMs: null };
    clock.ms = 1003;
    const answer = collect(engine.generate(toyRequest({ maxNewTokens: 2, budget }), never()));
    await gate.reached;
    clock.ms = 1030;
    gate.open();
    await gate.reached;
    clock.ms = 1050;
    gate.open();
    const { timings, budgetMet } = (await answer).end as GenerationEnd;
    deepEqual(timings, { queueMs: 3, prefillMs: 27, decodeMs: 20, totalMs: 50 });
    equal(budgetMet, false, "the first token came after 30 ms");
  });

  it("lets requests wait for a slot in the order of their arrival and refuses when too many wait", async () => {
    const gate = new Gate();
    const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
    const { engine, gauges } = toyEngine({ runner, maxWaiting: 2 });
    const order: number[] = [];
    const run = (id: number) =>
      collect(engine.generate(toyRequest({ maxNewTokens: 1 }), never())).then(() => order.push(id));
    const answers = [run(0), run(1), run(2)];
    throws(() => engine.generate(toyRequest(), never()), (error) => {
      ok(error instanceof QueueFullError);
      return error.retryAfterMs > 0;
    });
    deepEqual(await gauges().then((g) => [g["requests_running"], g["requests_waiting"], g["waiting_prompt_tokens"]]), [
      1,
      2,
      6,
    ]);
    for (let i = 0; i < 3; i++) {
      await gate.reached;
      gate.open();
      await answers[i];
    }
    deepEqual(order, [0, 1, 2]);
    await isIdle(gauges, runner, 1);
  });

  it("chooses again when a slot is free, by the time that is left", async () => {
    const gate = new Gate();
    const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
    const { engine, clock, gauges } = toyEngine({ runner });
    const budget = { latencyMs: 50, ttftMs: null, tpotMs: null };
    const first = collect(engine.generate(toyRequest({ maxNewTokens: 1 }), never()));
    const second = engine.generate(toyRequest({ maxNewTokens: 4, budget }), never());
    const later = { ...budget, latencyMs: 99 };
    const third = engine.generate(toyRequest({ maxNewTokens: 4, budget: later, onMiss: "reject" }), never());
    clock.ms = 1012;
    gate.open();
    await first;
    const start = await second.next();
    equal(start.value.choice.reason, "load");
    ok(start.value.choice.predictedMs <= 50 && start.value.choice.predictedMsAtRate0 > 50);
    clock.ms = 1100;
    await second.return?.();
    gate.open();
    // Its budget is over, but it was let in: it is served, late.
    const late = collect(third);
    for (let step = 0; step < 4; step++) {
      await gate.reached;
      gate.open();
    }
    const { end } = await late;
    deepEqual([(end as GenerationEnd).choice.reason, (end as GenerationEnd).budgetMet], ["floor", false]);
    await isIdle(gauges, runner, 1);
  });

  it("refuses at the door what cannot meet its budget, if that is wanted", async () => {
    const { engine, registry } = toyEngine();
    const budget = { latencyMs: 10, ttftMs: null, tpotMs: null };
    throws(() => engine.generate(toyRequest({ budget, onMiss: "reject" }), never()), BudgetError);
    match(await registry.metrics(), 'espalier_admission_rejected_total{reason="budget"} 1');
    const { end } = await collect(engine.generate(toyRequest({ budget }), never()));
    equal((end as GenerationEnd).choice.reason, "floor");
  });

  it("ends a truncated answer before the step that would overrun the budget", async () => {
    const clock = { ms: 1000 };
    const runner = new ToyRunner({ onStep: () => void (clock.ms += 10) });
    const { engine } = toyEngine({ runner, now: () => clock.ms });
    const budget = { latencyMs: 35, ttftMs: null, tpotMs: null };
    const { end, tokens } = await collect(
      engine.generate(toyRequest({ maxNewTokens: 50, budget, onMiss: "truncate", floorLevel: 0 }), never()),
    );
    const { finishReason, budgetMet, timings } = end as GenerationEnd;
    deepEqual([finishReason, budgetMet, timings.totalMs, tokens.length], ["budget", true, 30, 3]);
  });

  it("ends an answer whose budget passes in the queue or in its prompt without tokens", async () => {
    const gate = new Gate();
    const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
    const { engine, clock, gauges } = toyEngine({ runner });
    const budget = { latencyMs: 30, ttftMs: null, tpotMs: null };
    const prompt = Array.from({ length: 20 }, () => 1);
    const request = toyRequest({ promptTokens: prompt, budget, onMiss: "truncate" });
    const answers = [collect(engine.generate(request, never())), collect(engine.generate(request, never()))];
    await gate.reached;
    clock.ms = 1031;
    gate.open();
    for (const { end } of await Promise.all(answers)) {
      const { finishReason, completionTokens, budgetMet } = end as GenerationEnd;
      deepEqual([finishReason, completionTokens, budgetMet], ["budget", 0, false]);
    }
    await isIdle(gauges, runner, 1);
  });

  for (
    const [stage, prompt, stepsBefore] of [["prefill", 20, 1], ["decode", 3, 3]] as const
  ) {
    it(`frees the slot of a request that is cancelled in ${stage} and leaves others alone`, async () => {
      const gate = new Gate();
      const runner = new ToyRunner({ onStep: () => gate.pass() });
      const { engine, gauges } = toyEngine({ runner });
      const caller = new AbortController();
      const promptTokens = Array.from({ length: prompt }, () => 1);
      const gone = collect(engine.generate(toyRequest({ promptTokens, maxNewTokens: 9 }), caller.signal));
      const stays = collect(engine.generate(toyRequest({ maxNewTokens: 9, pinnedLevel: 1 }), never()));
      for (let i = 0; i < stepsBefore; i++) {
        await gate.reached;
        if (i === stepsBefore - 1) caller.abort(new Error("gone"));
        gate.open();
      }
      await rejects(gone, /gone/);
      await gate.reached;
      equal(runner.freeSlots, 1);
      deepEqual(runner.steps.at(-1)!.length, 1);
      for (let done = false; !done; gate.open()) {
        done = await Promise.race([stays.then(() => true), gate.reached.then(() => false)]);
      }
      deepEqual((await stays).tokens, toyAnswer([1, 2, 3], 1, 9));
      await isIdle(gauges, runner);
    });
  }

  it("takes the most urgent of the prompts that it has begun", async () => {
    const runner = new ToyRunner();
    const { engine } = toyEngine({ runner });
    const ask = (prompt: number, latencyMs: number) => {
      const promptTokens = Array.from({ length: prompt }, () => 1);
      const budget = { latencyMs, ttftMs: null, tpotMs: null };
      return collect(engine.generate(toyRequest({ promptTokens, maxNewTokens: 1, budget }), never()));
    };
    await Promise.all([ask(20, 9000), ask(5, 500)]);
    deepEqual(runner.steps, [["0:8"], ["0:5", "0:3"], ["0:8"], ["0:1"]]);
  });

  it("lets a waiting request go at once when it is cancelled", async () => {
    const gate = new Gate();
    const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
    const { engine, gauges } = toyEngine({ runner });
    const caller = new AbortController();
    const first = collect(engine.generate(toyRequest({ maxNewTokens: 1 }), never()));
    const second = collect(engine.generate(toyRequest(), caller.signal));
    caller.abort(new Error("gone"));
    await rejects(second, /gone/);
    equal((await gauges())["requests_waiting"], 0);
    gate.open();
    await first;
    await isIdle(gauges, runner, 1);
  });

  it("frees the slot of a reader that leaves", async () => {
    const runner = new ToyRunner();
    const { engine, gauges } = toyEngine({ runner });
    for await (const { kind } of engine.generate(toyRequest({ maxNewTokens: 40 }), never())) {
      if (kind === "token") break;
    }
    await engine.stop();
    ok(runner.steps.length < 40);
    await isIdle(gauges, runner);
  });

  it("takes no request whose caller has gone", () => {
    const { engine } = toyEngine();
    throws(() => engine.generate(toyRequest(), AbortSignal.abort(new Error("gone"))), /gone/);
  });

  it("answers the requests of a failed step with an error and goes on with others", async () => {
    const runner: ToyRunner = new ToyRunner({
      slots: 1,
      onStep: () => {
        if (runner.steps.length === 1) throw new Error("device lost");
      },
    });
    const { engine, gauges } = toyEngine({ runner });
    const first = collect(engine.generate(toyRequest(), never()));
    const second = engine.generate(toyRequest(), never());
    await rejects(first, (error) => error instanceof StepError && /device lost/.test(String(error.cause)));
    deepEqual((await collect(second)).tokens, toyAnswer([1, 2, 3], 0, 4));
    await isIdle(gauges, runner, 1);
  });

  it("expects steps to take time where answers are expected to be one token long", async () => {
    const { engine } = toyEngine();
    for (let i = 0; i < 20; i++) await collect(engine.generate(toyRequest({ endsAfter: () => true }), never()));
    const { all } = await collect(engine.generate(toyRequest(), never()));
    const { choice } = all[0] as GenerationStart;
    equal(choice.predictedTpotMs, 10);
    equal(choice.predictedMs, choice.predictedTtftMs);
  });

  it("counts the budget of a request whose step failed as missed", async () => {
    const { engine, registry } = toyEngine({ runner: failing() });
    const budget = { latencyMs: 60_000, ttftMs: null, tpotMs: null };
    await rejects(collect(engine.generate(toyRequest({ budget }), never())), StepError);
    match(await registry.metrics(), 'espalier_slo_requests_total{rate="0",outcome="missed"} 1');
  });

  it("counts no budget as missed where a request had none, or left while the step ran that failed", async () => {
    const gate = new Gate();
    const runner = new ToyRunner({
      slots: 1,
      onStep: async () => {
        await gate.pass();
        throw new Error("device lost");
      },
    });
    const { engine, registry, gauges } = toyEngine({ runner });
    const caller = new AbortController();
    const budget = { latencyMs: 60_000, ttftMs: null, tpotMs: null };
    const without = collect(engine.generate(toyRequest(), never()));
    const left = collect(engine.generate(toyRequest({ budget }), caller.signal));
    await gate.reached;
    gate.open();
    await rejects(without, StepError);
    await gate.reached;
    caller.abort(new Error("gone"));
    gate.open();
    await rejects(left, /gone/);
    await engine.stop();
    for (const rate of TOY_RATES) {
      match(await registry.metrics(), `espalier_slo_requests_total{rate="${rate}",outcome="missed"} 0`);
    }
    await isIdle(gauges, runner, 1);
  });

  it("opens the runner again when steps fail in a row, and says so meanwhile", async () => {
    const broken = failing();
    const fresh = new ToyRunner({ slots: 1 });
    const gate = new Gate();
    const reopen = async () => {
      await gate.pass();
      return fresh;
    };
    const { engine, gauges } = toyEngine({ runner: broken, reopen });
    const answers = [1, 2, 3].map(() => collect(engine.generate(toyRequest(), never())));
    for (const answer of answers.slice(0, 2)) await rejects(answer, StepError);
    await gate.reached;
    equal(engine.state, "reopening");
    throws(() => engine.generate(toyRequest(), never()), NotReadyError);
    gate.open();
    deepEqual((await answers[2]!).tokens, toyAnswer([1, 2, 3], 0, 4));
    equal(engine.state, "ready");
    deepEqual([broken.steps.length, broken.freeSlots], [2, 1]);
    await isIdle(gauges, fresh, 1);
  });

  it("opens the runner again when nobody waits for it", async () => {
    const fresh = new ToyRunner({ slots: 1 });
    const { engine } = toyEngine({ runner: failing(), reopen: () => Promise.resolve(fresh) });
    for (let i = 0; i < 2; i++) await rejects(collect(engine.generate(toyRequest(), never())), StepError);
    await turn();
    equal(engine.state, "ready");
    equal((await collect(engine.generate(toyRequest(), never()))).tokens.length, 4);
  });

  it("refuses while the runner cannot be opened, tells those who wait, and recovers when it can", async () => {
    let attempts = 0;
    const reopen = () => {
      if (++attempts <= 2) throw new Error("no device");
      return Promise.resolve(new ToyRunner({ slots: 1 }));
    };
    const { engine, gauges, metrics } = toyEngine({ runner: failing(), reopen });
    const answers = [1, 2, 3].map(() => collect(engine.generate(toyRequest(), never())));
    for (const answer of answers.slice(0, 2)) await rejects(answer, StepError);
    await rejects(answers[2]!, (error) => error instanceof NotReadyError && /no device/.test(String(error.cause)));
    equal(engine.state, "broken");
    throws(() => engine.generate(toyRequest(), never()), NotReadyError);
    const { values } = await metrics.admissionRejected.get();
    equal(values.find(({ labels }) => labels["reason"] === "not_ready")!.value, 2, "one waited, one came later");
    await engine.recover();
    deepEqual([engine.state, attempts], ["broken", 2]);
    await engine.recover();
    equal(engine.state, "ready");
    equal((await collect(engine.generate(toyRequest(), never()))).tokens.length, 4);
    await engine.recover(); // there is nothing to do
    deepEqual([attempts, (await gauges())["requests_waiting"]], [3, 0]);
  });

  it("lets those in first whose budget breaks first, and the hopeless after them", async () => {
    const gate = new Gate();
    const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
    const { engine, clock } = toyEngine({ runner });
    const order: string[] = [];
    const run = (name: string, latencyMs: number | null) => {
      const budget = { latencyMs, ttftMs: null, tpotMs: null };
      const events = engine.generate(toyRequest({ maxNewTokens: 1, budget }), never());
      return collect(events).then(() => order.push(name));
    };
    const answers = [run("first", null), run("none", null), run("loose", 5000), run("tight", 400), run("lost", 50)];
    await gate.reached;
    clock.ms += 60;
    for (let open = answers.length; open > 0; open--) {
      await gate.reached;
      gate.open();
      await Promise.race(answers.filter((_, i) => !order.includes(["first", "none", "loose", "tight", "lost"][i]!)));
    }
    deepEqual(order, ["first", "tight", "loose", "none", "lost"]);
  });

  it("leaves no slot empty while somebody waits, and gives up few between two steps, when a stall has lost all", async () => {
    const clock = { ms: 1000 };
    const runner: ToyRunner = new ToyRunner({
      onStep: () => void (clock.ms += runner.steps.length === 1 ? 10_000 : 10),
    });
    const { engine } = toyEngine({ runner, now: () => clock.ms, maxWaiting: 20 });
    const ask = (maxNewTokens: number, latencyMs: number | null) => {
      const budget = { latencyMs, ttftMs: null, tpotMs: null };
      return collect(engine.generate(toyRequest({ promptTokens: [1], maxNewTokens, budget }), never()));
    };
    const order: number[] = [];
    const first = ask(40, null);
    const lost = Array.from({ length: 20 }, (_, i) => ask(1, 400).then(() => order.push(i)));
    await Promise.all([first, ...lost]);
    deepEqual(runner.steps.map(({ length }) => length), [1, ...new Array(20).fill(2), ...new Array(19).fill(1)]);
    // Eight go to the back and the ninth starts, then the next eight do.
    deepEqual(order, [8, 17, 0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19]);
  });

  it("refuses when too many prompt tokens wait", async () => {
    const gate = new Gate();
    const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
    const { engine } = toyEngine({ runner, maxWaitingTokens: 5 });
    const caller = new AbortController();
    const answers = [1, 2].map(() => collect(engine.generate(toyRequest(), caller.signal)));
    throws(() => engine.generate(toyRequest(), never()), (error) => error instanceof QueueFullError);
    caller.abort(new Error("gone"));
    gate.open();
    for (const answer of answers) await rejects(answer, /gone/);
  });

  it("answers only the request whose logits cannot be sampled with an error", async () => {
    const runner = new ToyRunner();
    const step = runner.step.bind(runner);
    runner.step = async (entries) =>
      (await step(entries)).map((logits, i) => entries[i]!.sequence.level === 2 ? logits.fill(NaN) : logits);
    const { engine, gauges } = toyEngine({ runner });
    const [good, bad] = await Promise.allSettled([
      collect(engine.generate(toyRequest(), never())),
      collect(engine.generate(toyRequest({ pinnedLevel: 2 }), never())),
    ]);
    deepEqual([good.status, bad.status], ["fulfilled", "rejected"]);
    await isIdle(gauges, runner);
  });

  it("finishes what it has when it is stopped, and takes nothing new", async () => {
    const { engine } = toyEngine();
    const answer = collect(engine.generate(toyRequest(), never()));
    const stopped = engine.stop();
    throws(() => engine.generate(toyRequest(), never()), StoppingError);
    await stopped;
    equal((await answer).tokens.length, 4);
  });

  it("ends what it has when it is aborted", async () => {
    const gate = new Gate();
    const runner = new ToyRunner({ slots: 1, onStep: () => gate.pass() });
    const { engine, gauges } = toyEngine({ runner });
    const answers = [1, 2].map(() => collect(engine.generate(toyRequest(), never())));
    await gate.reached;
    const aborted = engine.abort();
    for (const answer of answers) await rejects(answer, StoppingError);
    gate.open();
    await aborted;
    await isIdle(gauges, runner, 1);
  });

  it("starts again for a request that comes right after the last one's end", async () => {
    const { engine } = toyEngine();
    for (let i = 0; i < 3; i++) {
      const events = engine.generate(toyRequest(), never());
      while ((await events.next()).value?.kind !== "end") continue;
    }
    equal((await collect(engine.generate(toyRequest(), never()))).tokens.length, 4);
  });

  it("predicts from how long steps take now", async () => {
    const clock = { ms: 1000 };
    const runner = new ToyRunner({ onStep: () => void (clock.ms += 40) });
    const { engine } = toyEngine({ runner, now: () => clock.ms });
    equal(engine.predicted(0).tokenMs, 10);
    await collect(engine.generate(toyRequest({ maxNewTokens: 60, arrivedMs: 1000 }), never()));
    ok(Math.abs(engine.predicted(0).tokenMs - 40) < 2, `${engine.predicted(0).tokenMs} ms`);
    // A level and a phase that were not measured follow the common factor, which is most of the four times.
    ok(engine.predicted(2).tokenMs > 18 && engine.predicted(2).chunkMs > 30);
  });

  it("says when work waits and no step ends", async () => {
    const gate = new Gate();
    const { engine, clock } = toyEngine({ runner: new ToyRunner({ onStep: () => gate.pass() }) });
    clock.ms += 60_000;
    const answer = collect(engine.generate(toyRequest({ maxNewTokens: 1 }), never()));
    await gate.reached;
    equal(engine.state, "ready", "the pause before does not count");
    clock.ms += 30_001;
    equal(engine.state, "stalled");
    gate.open();
    await answer;
    equal(engine.state, "ready");
    clock.ms += 60_000;
    equal(engine.state, "ready", "nothing waits");
  });

  it("refuses requests that are empty or too long, and steps that are too small", () => {
    const { engine } = toyEngine();
    throws(() => engine.generate(toyRequest({ promptTokens: [] }), never()), RangeError);
    throws(() => engine.generate(toyRequest({ maxNewTokens: 62 }), never()), /a sequence holds 64/);
    throws(() => toyEngine({ runner: new ToyRunner({ maxRows: 9 }) }), /a step holds 9/);
  });

  it("counts what steps did, by phase and rate", async () => {
    const { engine, registry } = toyEngine();
    await collect(engine.generate(toyRequest({ pinnedLevel: 1 }), never()));
    const text = await registry.metrics();
    match(text, 'espalier_tokens_total{phase="prefill",rate="0.15"} 3');
    match(text, 'espalier_tokens_total{phase="decode",rate="0.15"} 4');
    match(text, 'espalier_rate_selected_total{rate="0.15",reason="pinned"} 1');
    match(text, 'espalier_step_seconds_count{phase="prefill",rate="0.15"} 1');
    match(text, 'espalier_step_seconds_count{phase="decode",rate="0.15"} 3');
    match(text, "espalier_inter_token_latency_seconds_count 3");
  });

  it("counts from 0, so that the first refusal and the first miss are seen to be one more", async () => {
    const text = await toyEngine().registry.metrics();
    for (const reason of ["queue_full", "budget", "overload", "stopping", "not_ready"]) {
      match(text, `espalier_admission_rejected_total{reason="${reason}"} 0`);
    }
    for (const code of [200, 500]) match(text, `espalier_requests_total{outcome="error",code="${code}"} 0`);
    for (const rate of TOY_RATES) {
      match(text, `espalier_slo_requests_total{rate="${rate}",outcome="missed"} 0`);
      match(text, `espalier_rate_selected_total{rate="${rate}",reason="floor"} 0`);
      match(text, `espalier_tokens_total{phase="decode",rate="${rate}"} 0`);
      match(text, `espalier_sequences_narrowed_total{rate="${rate}"} 0`);
    }
  });
});

function match(text: string, line: string): void {
  ok(text.split("\n").includes(line), `no line ${line} in\n${text}`);
}
