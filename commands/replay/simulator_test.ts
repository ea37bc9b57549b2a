import { deepEqual, equal, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { RandomDraws } from "./random.ts";
import { judge, pooled, REFUSED, simulate, type SimulatedRequest } from "./simulator.ts";
import { StepClock } from "./measured_costs.ts";

/** Two slots, two levels, chunks of 4; every step of two sequences is dearer than one, not twice. */
const clock = new StepClock({
  decodeMs: [[10, 16], [6, 9]],
  prefillMs: [[{ rows: 1, ms: 9 }, { rows: 4, ms: 30 }], [{ rows: 1, ms: 5 }, { rows: 4, ms: 17 }]],
});
const request = (arrivalMs: number, promptTokens: number, newTokens: number, deadlineMs = 1e9): SimulatedRequest => ({
  ...{ arrivalMs, promptTokens, newTokens, deadlineMs },
});

/** The same engine, a step at a time and without any shortcut. */
function stepByStep(requests: readonly SimulatedRequest[], decisions: readonly number[]): number[] {
  const finished = requests.map(() => NaN);
  const left = requests.map(({ promptTokens, newTokens }) => ({ prompt: promptTokens, tokens: newTokens }));
  let waiting = requests.map((_, i) => i).filter((i) => decisions[i] !== REFUSED);
  let running: number[] = [];
  for (let now = 0; waiting.length + running.length > 0;) {
    if (running.length === 0) now = Math.max(now, Math.min(...waiting.map((i) => requests[i]!.arrivalMs)));
    const here = waiting.filter((i) => requests[i]!.arrivalMs <= now)
      .sort((a, b) => requests[a]!.deadlineMs - requests[b]!.deadlineMs).slice(0, clock.slots - running.length);
    running.push(...here);
    waiting = waiting.filter((i) => !here.includes(i));
    const [decode, prefill] = [[0, 0], [0, 0]];
    let room = clock.chunk;
    for (const i of running) {
      const level = decisions[i]!;
      if (left[i]!.prompt === 0) {
        decode[level]!++;
        left[i]!.tokens--;
      } else {
        const rows = Math.min(room, left[i]!.prompt);
        prefill[level]! += rows;
        room -= rows;
        left[i]!.prompt -= rows;
        if (rows > 0 && left[i]!.prompt === 0) left[i]!.tokens--;
      }
    }
    now += clock.stepMs(decode, prefill);
    for (const i of running) if (left[i]!.tokens === 0) finished[i] = now;
    running = running.filter((i) => left[i]!.tokens > 0);
  }
  return finished;
}

describe("simulate()", () => {
  it("takes as long for a request alone as its steps", () => {
    deepEqual([...simulate(clock, [request(5, 5, 3)], { levels: [0] }).finishedMs], [5 + clock.aloneMs(0, 5, 3)]);
    deepEqual([...simulate(clock, [request(5, 5, 3)], { levels: [1] }).finishedMs], [5 + clock.aloneMs(1, 5, 3)]);
  });

  it("lets two run together", () => {
    // Both prompts in one chunk of 4 rows, then two steps of two.
    deepEqual([...simulate(clock, [request(0, 2, 3), request(0, 2, 3)], { levels: [0, 0] }).finishedMs], [
      30 + 32,
      30 + 32,
    ]);
  });

  it("gives a free slot to the earliest deadline", () => {
    const requests = [request(0, 1, 9, 900), request(0, 1, 9, 901), request(1, 1, 1, 950), request(2, 1, 1, 920)];
    const levels = [1, 1, 1, 1];
    const [, , late, urgent] = simulate(clock, requests, { levels }).finishedMs;
    equal(urgent, late); // both slots came free at once, and one chunk took both prompts
    const [, , later, first] = simulate(clock, [request(0, 1, 20, 900), ...requests.slice(1)], { levels }).finishedMs;
    equal(first! < later!, true);
  });

  it("passes over what is refused", () => {
    const requests = [request(0, 1, 2), request(0, 1, 2), request(500, 1, 1)];
    const [first, refused, last] = simulate(clock, requests, { levels: [0, REFUSED, 0] }).finishedMs;
    deepEqual([first, refused, last], [9 + 10, NaN, 509]);
    deepEqual([...simulate(clock, [request(0, 1, 1)], { levels: [REFUSED] }).finishedMs], [NaN]);
  });

  it("narrows those who run when another arrives, from the next step on", () => {
    // 9 + 10 + 10 up to 29, past the arrival at 20; two prompt rows of one and a decoded one of the other at level 1.
    const requests = [request(0, 1, 5), request(20, 1, 1)];
    const { finishedMs, tokensAtLevel } = simulate(clock, requests, { levels: [0, 1], narrowings: [0, 1] });
    const both = clock.stepMs([0, 1], [0, 1]);
    deepEqual([...finishedMs], [29 + both + 6, 29 + both]);
    deepEqual([...tokensAtLevel], [3, 2, 0, 1]);
  });

  it("says so when steps take no time, in place of going on for ever", () => {
    const broken = new StepClock({ decodeMs: [[NaN]], prefillMs: [[{ rows: 1, ms: 1 }]] });
    throws(() => simulate(broken, [request(0, 1, 2)], { levels: [0] }), /a step of NaN ms/);
  });

  it("comes to the same as going step by step", () => {
    const draws = new RandomDraws(7);
    for (let trial = 0; trial < 30; trial++) {
      let arrivalMs = 0;
      const requests = Array.from({ length: 25 }, () => {
        arrivalMs += draws.integer(3) * draws.integer(60);
        return request(arrivalMs, 1 + draws.integer(9), 1 + draws.integer(6), arrivalMs + draws.integer(400) / 7);
      });
      const decisions = requests.map(() => draws.integer(3) - 1);
      const rounded = (times: Iterable<number>) => [...times].map((time) => Math.round(time * 1e6) / 1e6);
      deepEqual(
        rounded(simulate(clock, requests, { levels: decisions }).finishedMs),
        rounded(stepByStep(requests, decisions)),
      );
    }
  });
});

describe("judge()", () => {
  it("counts refusals as misses, and the rates of those that ran", () => {
    const requests = [request(0, 1, 1, 9), request(100, 1, 1, 104), request(200, 1, 1, 300)];
    deepEqual(judge(clock, [0, 0.3], requests, { levels: [0, 1, REFUSED] }), {
      offered: 3,
      served: 2,
      attainment: 1 / 3,
      meanRate: 0.15,
      missed: [1],
    });
    deepEqual(judge(clock, [0, 0.3], requests, { levels: [-1, -1, -1] }), {
      ...{ offered: 3, served: 0, attainment: 0, meanRate: 0, missed: [] },
    });
  });
});

describe("pooled()", () => {
  it("is what one trace of all requests would come to", () => {
    const few = { offered: 1, served: 1, attainment: 1, meanRate: 0, missed: [] };
    const many = { offered: 4, served: 3, attainment: 0.5, meanRate: 0.2, missed: [2] };
    const { attainment, meanRate } = pooled([few, many]);
    deepEqual([attainment, meanRate], [3 / 5, 0.6000000000000001 / 4]);
    deepEqual(pooled([few]), { attainment: 1, meanRate: 0 });
    deepEqual(pooled([{ ...few, served: 0, attainment: 0 }]), { attainment: 0, meanRate: 0 });
  });
});
