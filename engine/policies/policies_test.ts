import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { beforeAll, describe, it } from "@std/testing/bdd";
import {
  capacity,
  DECODING,
  makeTrace,
  type Outcome,
  PREFILLING,
  RATES,
  REPLAYED,
  runTrace,
  type TraceOptions,
  type VirtualOptions,
} from "../testing/virtual_service.ts";
import { createPolicy, type Policy, POLICY_NAMES } from "./mod.ts";

/** Traces that no setting was chosen by. */
const SEEDS = Array.from({ length: 12 }, (_, i) => 31 + i);

/** Length of a trace, as in the README's replays. */
const SECONDS = 45;

/** All policies but the default one. */
const OTHERS = ["fixed:0", "fixed:0.35", "queue-threshold", "budget", "slackfit"];

/** Means over a few traces. */
async function means(
  { load, sustained, budgets, seeds = SEEDS, ...options }: Omit<VirtualOptions, "trace"> & {
    load: number;
    sustained: number;
    budgets: readonly [tight: number, loose: number];
    seeds?: readonly number[];
  },
): Promise<Pick<Outcome, "attainment" | "admittedMet" | "meanRate" | "predictionError" | "refused">> {
  const outcomes: Outcome[] = [];
  for (const seed of seeds) {
    const { model } = options;
    const perSecond = load * sustained;
    const requests = Math.round(SECONDS * perSecond);
    const trace = makeTrace({ seed, requests, perSecond, budgets, ...(model && { model }) });
    outcomes.push(await runTrace({ ...options, trace, seed }));
  }
  const mean = (of: (outcome: Outcome) => number) =>
    outcomes.reduce((sum, outcome) => sum + of(outcome), 0) / outcomes.length;
  return {
    attainment: mean(({ attainment }) => attainment),
    admittedMet: mean(({ admittedMet }) => admittedMet),
    meanRate: mean(({ meanRate }) => meanRate),
    predictionError: mean(({ predictionError }) => predictionError),
    refused: mean(({ refused }) => refused),
  };
}

/** Kinds of work, and what half of the budgets each are as multiples of the time alone at rate 0. */
const KINDS = [
  { kind: "that the README replays", model: REPLAYED, budgets: [4, 12] },
  { kind: "where decoding takes most of the time", model: DECODING, budgets: [3, 10] },
  // Whoever has a long prompt holds up others.
  { kind: "of long prompts, where prefill does", model: PREFILLING, budgets: [4, 12] },
] as const;

for (const { kind, model, budgets } of KINDS) {
  describe(`policies under bursts of requests ${kind}, on virtual time`, () => {
    let sustained: number;
    const known = new Map<string, ReturnType<typeof means>>();
    const at = (load: number, policy: string, seeds = SEEDS) => {
      const key = `${policy} at ${load} with ${seeds}`;
      const mean = known.get(key) ?? means({ policy, load, sustained, model, budgets, seeds });
      known.set(key, mean);
      return mean;
    };
    beforeAll(async () => void (sustained = await capacity(model)));

    it("predictive keeps more budgets at 1.2 times the load than every other one that does not keep nearly all", async () => {
      const found = await at(1.2, "predictive");
      for (const policy of OTHERS) {
        const other = await at(1.2, policy);
        // Where another keeps nearly all it is chance who keeps more: of long prompts fixed:0.35 and predictive kept 98.9 %
        // each, in 42 traces.
        const chance = other.attainment > 0.99 ? 0.005 : 0;
        ok(
          found.attainment > other.attainment - chance,
          `${policy} met ${other.attainment}, predictive ${found.attainment}`,
        );
        if (policy === "fixed:0") ok(found.attainment > other.attainment + 0.2);
        if (policy === "fixed:0.35") ok(found.meanRate < 0.75 * other.meanRate, `rate ${found.meanRate}`);
        if (policy === "queue-threshold") ok(found.meanRate < 1.05 * other.meanRate, `rate ${found.meanRate}`);
      }
      ok(found.predictionError < 0.1, `median prediction error ${found.predictionError}`);
    });

    it("predictive with a floor keeps more budgets than those that ignore load, and prunes no more", async () => {
      const found = await at(1.2, "predictive:0.05");
      for (const policy of ["budget", "slackfit"]) {
        const { attainment, meanRate } = await at(1.2, policy);
        ok(found.attainment > attainment + 0.1, `${policy} met ${attainment}, predictive ${found.attainment}`);
        ok(found.meanRate < meanRate, `${policy} at ${meanRate}, predictive ${found.meanRate}`);
      }
    });

    it("predictive hardly prunes at half of the load, half as much as by the queue's length, and refuses nobody", async () => {
      const { attainment, meanRate, predictionError, refused } = await at(0.5, "predictive");
      const byQueue = await at(0.5, "queue-threshold");
      ok(attainment >= 0.99 && attainment >= byQueue.attainment, `${attainment} met`);
      ok(meanRate <= 0.02 && meanRate < byQueue.meanRate / 2, `rate ${meanRate}, by the queue ${byQueue.meanRate}`);
      ok(predictionError < 0.1, `median prediction error ${predictionError}`);
      equal(refused, 0);
    });

    it("predictive refuses at three times the load, and serves those whom it lets in", async () => {
      const seeds = SEEDS.slice(0, 5);
      const { admittedMet, attainment } = await at(3, "predictive", seeds);
      const { attainment: narrow } = await at(3, "fixed:0.35", seeds);
      ok(admittedMet >= 0.95, `${admittedMet} of the admitted`);
      ok(attainment > narrow + 0.2, `${attainment} of all, the largest fixed rate ${narrow}`);
    });
  });
}

describe("predictive, as the service is used", () => {
  const model = REPLAYED;
  let sustained: number;
  beforeAll(async () => void (sustained = await capacity(model)));

  /** Mean over a few seeds. */
  const mean = async (
    of: (outcome: Outcome) => number,
    { load, seconds, ...options }: Omit<VirtualOptions, "trace"> & { load: number; seconds: number },
  ) => {
    const seeds = SEEDS.slice(0, 3);
    let sum = 0;
    for (const seed of seeds) {
      const perSecond = load * sustained;
      const trace = makeTrace({
        ...{ seed, requests: Math.round(seconds * perSecond), perSecond, budgets: [4, 12], model },
      });
      sum += of(await runTrace({ ...options, trace, seed, model }));
    }
    return sum / seeds.length;
  };

  it("with a floor goes on keeping budgets under a load that the floor can never serve", async () => {
    const met = await mean(({ attainment }) => attainment, { policy: "predictive:0.05", load: 1.2, seconds: 150 });
    ok(met > 0.7, `${met} met`);
  });

  it("serves those whom it lets in when others are pinned, who pass the same door", async () => {
    const admittedMet = (pinnedShare: number) =>
      mean((outcome) => outcome.admittedMet, { policy: "predictive", load: 3, seconds: 45, pinnedShare });
    const met = await admittedMet(0.3);
    ok(met > 0.97, `${met} of the admitted`);
  });

  it("keeps more budgets than rate 0 where requests allow far more tokens than they get", async () => {
    const met = (policy: string) =>
      mean(({ attainment }) => attainment, { policy, load: 0.5, seconds: 60, allowedTokens: 128 });
    const [predictive, widest] = [await met("predictive"), await met("fixed:0")];
    ok(predictive > widest, `${predictive} met, at rate 0 ${widest}`);
  });

  it("knows how long answers get where half of the requests allow far more and the others just that", async () => {
    // 91 and 97 %; with one mean share of what is allowed in place of lengths it was 74 and 63 %.
    const mixed = { policy: "predictive", seconds: 45, allowedTokens: 256, allowingShare: 0.5 };
    const met = await mean(({ attainment }) => attainment, { ...mixed, load: 1.2 });
    ok(met > 0.85, `${met} met at 1.2 times the load`);
    const admittedMet = await mean((outcome) => outcome.admittedMet, { ...mixed, load: 3 });
    ok(admittedMet > 0.93, `${admittedMet} of the admitted at three times the load`);
  });
});

describe("policies where decoding takes most of the time", () => {
  let sustained: number;
  beforeAll(async () => void (sustained = await capacity()));

  it("never refuses whom it has let in", async () => {
    const trace = makeTrace({ seed: 31, requests: 120, perSecond: 3 * sustained });
    const { ends, refused, refusedAtDoor } = await runTrace({ policy: "predictive", trace, onMiss: "reject" });
    ok(refused > 10);
    deepEqual([refused, ends.length], [refusedAtDoor, trace.length - refusedAtDoor]);
  });

  it("keeps more budgets when what runs may be narrowed, and when prompts are held back for answers", async () => {
    const { narrow, holdsPrompts, choose } = createPolicy("predictive", { pruningRates: RATES, shed: true });
    const met = async (policy: Policy) => {
      let attainment = 0;
      for (const seed of SEEDS) {
        const trace = makeTrace({ seed, requests: 240, perSecond: 1.2 * sustained, budgets: [3, 10] });
        attainment += (await runTrace({ policy: "predictive", trace, seed, engine: { policy } })).attainment;
      }
      return attainment / SEEDS.length;
    };
    const both = await met({ choose, narrow: narrow!, holdsPrompts: holdsPrompts! });
    for (const without of [{ choose, holdsPrompts: holdsPrompts! }, { choose, narrow: narrow! }]) {
      const other = await met(without);
      ok(both > other, `${both} against ${other} with ${Object.keys(without)}`);
    }
  });

  it("serves everyone in the end when nothing is refused for load", async () => {
    const trace = makeTrace({ seed: 1, requests: 60, perSecond: 1.2 * sustained });
    for (const policy of ["fixed:0", "predictive"]) {
      const { ends, refused } = await runTrace({ policy, trace, shed: false });
      deepEqual([ends.length, refused], [60, 0]);
    }
  });

  describe("20 s after steps have become twice as slow", () => {
    const [changeMs, settledMs] = [60_000, 80_000];

    /** Median of the prediction errors of the first 20 requests of each trace after that. */
    const errorAfter = async (
      options: Omit<TraceOptions, "seed" | "perSecond"> & { load: number; slowness: (nowMs: number) => number },
    ) => {
      const { load, slowness, ...trace } = options;
      const errors: number[] = [];
      for (const seed of SEEDS) {
        const requests = makeTrace({ ...trace, seed, perSecond: load * sustained });
        const { ends } = await runTrace({ policy: "predictive", trace: requests, seed, slowness });
        const later = ends.filter(({ endMs, end }) => endMs - end.timings.totalMs > settledMs);
        for (const { end: { choice, timings } } of later.slice(0, 20)) {
          errors.push(Math.abs(choice.predictedMs / timings.totalMs - 1));
        }
      }
      return errors.sort((a, b) => a - b)[errors.length >> 1]!;
    };
    const twice = (nowMs: number) => nowMs > changeMs ? 2 : 1;

    it("predicts bursts within 10 % again", async () => {
      const median = await errorAfter({ load: 0.5, requests: 150, budgets: [4, 12], slowness: twice });
      ok(median < 0.1, `median ${median}`);
    });

    // To four of five of these requests others come who cannot be foreseen: 10.6 %, and 11.4 had steps always been slow.
    it("predicts smooth arrivals as well as had they always been so slow", async () => {
      const smooth = { load: 0.4, requests: 200, cv2: 1, budgets: [5, 20] } as const;
      const median = await errorAfter({ ...smooth, slowness: twice });
      const always = await errorAfter({ ...smooth, slowness: () => 2 });
      ok(median < 1.1 * always && always < 0.12, `median ${median}, always so slow ${always}`);
    });
  });
});

describe("createPolicy()", () => {
  const options = { pruningRates: RATES, shed: true };

  it("knows every policy by name", () => {
    for (const name of ["predictive:0.1", ...POLICY_NAMES.map((name) => name.replace(":R", ":0.35"))]) {
      equal(typeof createPolicy(name, options).choose, "function", name);
    }
  });

  it("refuses names and rates that do not exist", () => {
    throws(() => createPolicy("no such policy", options), {
      message: `There is no policy "no such policy"; these are: ${POLICY_NAMES.join(", ")}`,
    });
    for (const kind of ["fixed", "predictive"]) {
      for (const rate of ["0.12", "", "x"]) throws(() => createPolicy(`${kind}:${rate}`, options), /is not prepared/);
    }
    for (const name of ["constructor", "constructor:0", "budget:0", "fixed"]) {
      throws(() => createPolicy(name, options), /There is no policy/);
    }
  });
});
