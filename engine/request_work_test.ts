import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { ActiveRequest } from "./active_request.ts";
import { AnswerLengths } from "./answer_lengths.ts";
import { Channel } from "./channel.ts";
import type { GenerationEvent } from "./generation.ts";
import { NO_TARGETS } from "./limits.ts";
import type { RateChoice } from "./rate_choice.ts";
import { runningWork, waitingWork } from "./request_work.ts";
import { SamplerScratch } from "./sampler.ts";
import { toyRequest } from "./testing/toy_engine.ts";
import { ToyRunner } from "./testing/toy_runner.ts";

const expectations = { targets: NO_TARGETS, nowMs: 1000, narrows: true, answerLengths: new AnswerLengths() };
const choice: RateChoice = {
  ...{ level: 0, reason: "idle" as const, predictedMs: 40, predictedMsAtRate0: 40 },
  ...{ predictedTtftMs: 10, predictedTpotMs: 10, fits: true },
};

/** A request with a prompt of 3 tokens that may have 4 or so within 500 ms, just begun. */
function begun({ hopeless = false, maxNewTokens = 4 } = {}): ActiveRequest {
  const waiting = {
    request: toyRequest({ maxNewTokens, budget: { latencyMs: 500, ttftMs: null, tpotMs: null }, arrivedMs: 900 }),
    hopeless,
    events: new Channel<GenerationEvent>(() => {}),
    unlisten: () => {},
  };
  const sequence = new ToyRunner().openSequence(0);
  return new ActiveRequest(waiting, { choice, sequence, nowMs: 1000 }, new SamplerScratch());
}

describe("runningWork()", () => {
  it("counts what the present step does as done", () => {
    const need = (rows: number) => {
      const { promptTokens, newTokens, context } = runningWork(begun(), { rows, instantMs: 0 }, expectations)!;
      return [promptTokens, newTokens, context];
    };
    deepEqual([need(0), need(2), need(3)], [[3, 4, 0], [1, 4, 2], [0, 3, 3]]);
  });

  it("counts on narrowing only where it can be done", () => {
    const narrowest = (narrows: boolean) =>
      runningWork(begun(), { rows: 0, instantMs: 0 }, { ...expectations, narrows })!.narrowestLevel;
    deepEqual([narrowest(true), narrowest(false)], [2, 0]);
  });

  it("is limited by its budget, and by nothing once that is lost", () => {
    const limit = (hopeless: boolean) =>
      runningWork(begun({ hopeless }), { rows: 0, instantMs: 0 }, expectations)!.limits.lastTokenMs;
    deepEqual([limit(false), limit(true)], [400, Infinity]);
  });

  it("is nothing once the last token is on its way", () => {
    const active = begun();
    active.prefilled = 3;
    active.tokens = 3;
    equal(runningWork(active, { rows: 1, instantMs: 0 }, expectations), null);
  });
});

describe("waitingWork()", () => {
  it("needs what answers have, and what they go on to have where they came so far", () => {
    // Half of them have 2 tokens, the others 20.
    const answerLengths = new AnswerLengths();
    for (let i = 0; i < 100; i++) answerLengths.add({ tokens: i % 2 === 0 ? 2 : 20, ended: true });
    const active = begun({ maxNewTokens: 60 });
    const waiting = (maxNewTokens: number) =>
      waitingWork({ ...active, request: { ...active.request, maxNewTokens } }, 0, { ...expectations, answerLengths });
    deepEqual([waiting(60), waiting(2), waiting(1)].map(({ newTokens }) => newTokens), [11, 2, 1]);
    active.prefilled = 3;
    const running = (tokens: number, rows: number) => {
      active.tokens = tokens;
      return runningWork(active, { rows, instantMs: 0 }, { ...expectations, answerLengths })?.newTokens;
    };
    deepEqual([running(3, 0), running(3, 1), running(19, 0)], [17, 16, 1]);
    equal(running(19, 1), undefined);
  });

  it("is limited by its budget, and by nothing once that is lost", () => {
    const request = toyRequest({ budget: { latencyMs: 500, ttftMs: 200, tpotMs: null }, arrivedMs: 900 });
    const limits = (hopeless: boolean) => {
      const { firstTokenMs, lastTokenMs } = waitingWork({ request, hopeless }, 0, expectations).limits;
      return [firstTokenMs, lastTokenMs];
    };
    deepEqual([limits(false), limits(true)], [[100, 400], [Infinity, Infinity]]);
  });
});
