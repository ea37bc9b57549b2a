import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { findOracle, type OracleOptions } from "./oracle.ts";
import { RandomDraws } from "./random.ts";
import { judge, REFUSED, type SimulatedRequest } from "./simulator.ts";
import { StepClock } from "./measured_costs.ts";

const RATES = [0, 0.2, 0.4];
const clock = new StepClock({
  decodeMs: [[10, 16], [8, 12], [6, 9]],
  prefillMs: [9, 7, 5].map((ms) => [{ rows: 1, ms }, { rows: 4, ms: 3 * ms }]),
});

function trace(count: number, seed: number): SimulatedRequest[] {
  const draws = new RandomDraws(seed);
  let arrivalMs = 0;
  return Array.from({ length: count }, () => {
    arrivalMs += draws.integer(60);
    const [promptTokens, newTokens] = [1 + draws.integer(4), 1 + draws.integer(8)];
    const slack = draws.uniform() < 0.5 ? 1.2 : 3;
    const deadlineMs = arrivalMs + slack * clock.aloneMs(0, promptTokens, newTokens);
    return { arrivalMs, promptTokens, newTokens, deadlineMs };
  });
}

const options = (requests: readonly SimulatedRequest[], more: Partial<OracleOptions> = {}): OracleOptions => ({
  ...{ clock, pruningRates: RATES, requests, seeds: [], narrows: false, candidates: 3000, seed: 1, ...more },
});

/** The best of all decisions there are. */
function exhaustive(requests: readonly SimulatedRequest[], narrows = false): { attainment: number; meanRate: number } {
  const levels = RATES.length + 1;
  const count = levels ** requests.length;
  let best = { attainment: -1, meanRate: 0 };
  for (let code = 0; code < count * (narrows ? RATES.length ** requests.length : 1); code++) {
    const decisions = {
      levels: requests.map((_, i) => Math.floor(code / levels ** i) % levels - 1),
      ...(narrows &&
        { narrowings: requests.map((_, i) => Math.floor(code / count / RATES.length ** i) % RATES.length) }),
    };
    const { attainment, meanRate, missed } = judge(clock, RATES, requests, decisions);
    if (missed.length > 0) continue;
    if (attainment > best.attainment || (attainment === best.attainment && meanRate < best.meanRate)) {
      best = { attainment, meanRate };
    }
  }
  return best;
}

describe("findOracle()", () => {
  it("finds the best there is where all can be tried", () => {
    for (const seed of [1, 2, 3]) {
      const requests = trace(6, seed);
      const { attainment, meanRate } = findOracle(options(requests));
      deepEqual({ attainment, meanRate }, exhaustive(requests));
    }
  });

  it("finds the best there is where what runs may be narrowed, which is never worse", () => {
    for (const seed of [1, 2]) {
      const requests = trace(4, seed);
      const { attainment, meanRate } = findOracle(options(requests, { narrows: true }));
      deepEqual({ attainment, meanRate }, exhaustive(requests, true));
      const without = exhaustive(requests);
      ok(attainment > without.attainment || (attainment === without.attainment && meanRate <= without.meanRate));
    }
  });

  it("runs everything at rate 0 where there is time", () => {
    const requests = trace(10, 1).map((request, i) => ({
      ...request,
      arrivalMs: 1000 * i,
      deadlineMs: 1000 * i + 999,
    }));
    const { attainment, meanRate, decisions } = findOracle(options(requests));
    deepEqual([attainment, meanRate, decisions], [1, 0, { levels: requests.map(() => 0) }]);
  });

  it("is no worse than what it starts from, and refuses what would miss", () => {
    const requests = trace(60, 4);
    const seeds = [{ levels: requests.map((_, i) => i % 3) }];
    const fixed = RATES.map((_, level) =>
      judge(clock, RATES, requests, { levels: requests.map(() => level) }).attainment
    );
    const oracle = findOracle(options(requests, { seeds }));
    ok(oracle.attainment > Math.max(...fixed, judge(clock, RATES, requests, seeds[0]!).attainment));
    deepEqual(oracle.missed, []);
    const { attainment, meanRate } = judge(clock, RATES, requests, oracle.decisions);
    deepEqual([attainment, meanRate], [oracle.attainment, oracle.meanRate]);
    equal(oracle.decisions.levels.filter((d) => d !== REFUSED).length, Math.round(oracle.attainment * 60));
  });

  it("finds the same again", () => deepEqual(findOracle(options(trace(30, 2))), findOracle(options(trace(30, 2)))));

  it("wants requests", () => throws(() => findOracle(options([])), RangeError));
});
