import { deepEqual, equal, match, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import type { Outcome } from "./outcome.ts";
import { plots, reportPage } from "./page.ts";
import type { LoadReport, ReplayReport } from "./report.ts";
import { summarize } from "./summary.ts";
import { markdown, policyTable } from "./tables.ts";

const request = (arrivalMs: number) => ({
  ...{ round: 0, arrivalMs, promptTokens: 4, newTokens: 3, budgetMs: 110 },
  budgetClass: "tight" as const,
});
const OUTCOMES: Outcome[] = [0, 500].map((arrivalMs) => ({
  ...request(arrivalMs),
  ...{ sentMs: arrivalMs, status: 200, ms: 100 },
  served: {
    ...{ pruningRate: 0.15, meanPruningRate: 0.1, reason: "load", finishReason: "length", tokens: 3 },
    ...{ predictedMs: 90, ttftMs: 20, decodeMs: 80, totalMs: 100, met: true },
  },
}));
const REFUSED: Outcome = { ...request(900), sentMs: 900, status: 429, ms: 4, served: null };
const run = (policy: string, outcomes: readonly Outcome[]): LoadReport["runs"][number] => ({
  ...{
    policy,
    outcomes,
    summary: summarize(outcomes, { seconds: 1, perplexity: new Map(), probes: { metrics: [3], readyz: [4] } }),
  },
  halfCpu: { before: 0.05, within: 0.2, after: NaN },
  simulated: { attainment: 0.5, meanRate: 0.1 },
});
const LOAD: LoadReport = {
  ...{ load: 1.2, requests: [request(0), request(500), request(900)] },
  runs: [run("a<b", [...OUTCOMES, REFUSED]), run("none", [REFUSED])],
  oracle: { attainment: 0.75, meanRate: 0.05 },
};
const REPORT: ReplayReport = {
  ...{ model: "toy", engine: "toy 1.0", kernels: "stock", threads: 2, slots: 2, trace: "gamma", seconds: 1 },
  ...{ onMiss: "reject", budgets: { tight: 1.5 }, halfCpuAtSeconds: 0.5, loads: [LOAD] },
  rounds: [{
    ...{ seed: 1, capacity: 2.5 },
    costs: { pruningRates: [0], decodeMs: [[10, 16]], prefillMs: [[{ rows: 4, ms: 30 }]], overheadMs: 1 },
  }],
};

describe("policyTable()", () => {
  it("has a row for each policy and one for the oracle, with a dash where nothing was counted", () => {
    const { head, rows } = policyTable(LOAD);
    const column = (name: string) => rows.map((row) => row[head.indexOf(name)]);
    deepEqual(column("policy"), ["a<b", "none", "oracle"]);
    deepEqual(column("met"), ["66.7 %", "0.0 %", "75.0 %"]);
    deepEqual(column("mean rate"), ["0.100", "–", "0.050"]);
    deepEqual(column("mean perplexity"), ["–", "–", ""]);
    deepEqual(column("refused"), ["33.3 %", "100.0 %", ""]);
    deepEqual(column("total ms"), ["100 / 100 / 100", "– / – / –", ""]);
    ok(rows.every((row) => row.length === head.length));
  });

  it("can do without an oracle", () => equal(policyTable({ ...LOAD, oracle: null }).rows.length, 2));
});

describe("markdown()", () => {
  it("has a table for each load and one for the cores taken away, of even width", () => {
    const text = markdown(REPORT);
    match(text, /^### 1\.2 × what rate 0 sustains: 3 requests$/m);
    match(text, /^\| a<b +\| 5\.0 % +\| 20\.0 % +\| – +\|$/m);
    const lines = text.split("\n").filter((line) => line.startsWith("| a<b") || line.startsWith("| oracle"));
    equal(new Set([lines[0]!.length, lines[1]!.length]).size, 1);
  });

  it("says nothing of cores that were not taken away", () => {
    const runs = LOAD.runs.map((run) => ({ ...run, halfCpu: null }));
    const text = markdown({ ...REPORT, halfCpuAtSeconds: null, loads: [{ ...LOAD, runs }] });
    ok(!/taken away|error before/.test(text));
  });
});

describe("rounds", () => {
  const [first] = REPORT.rounds;
  const rounds = [first!, { ...first!, seed: 2, capacity: 1.5 }];
  const requests = [0, 1].flatMap((round) => LOAD.requests.map((request) => ({ ...request, round })));

  it("have their seeds and what each measured in the report", () => {
    const text = markdown({ ...REPORT, rounds });
    match(text, /^- Trace: gamma, 1 s, seed 1, 2; /m);
    match(text, /^- Rate 0 sustains 2\.50, 1\.50 requests\/s; a client waits 1\.0, 1\.0 ms for the way$/m);
    equal(reportPage({ ...REPORT, rounds }).match(/<h2>What steps cost, in ms \(before seed [12]\)<\/h2>/g)?.length, 2);
  });

  it("follow each other in plots over time", () => {
    const { x, series } = plots({ ...LOAD, requests }, { ...REPORT, rounds })[1]!;
    deepEqual(x.range, [0, 2]);
    const { points } = series[0]!;
    const perRound = [0, 1].map((round) => points.filter(([at]) => Math.floor(at) === round));
    deepEqual(perRound.map((of) => of.filter(([, perSecond]) => perSecond > 0).length), [3, 3]);
  });
});

describe("plots()", () => {
  it("show attainment against rate, with the oracle's line", () => {
    const { series } = plots(LOAD, REPORT)[0]!;
    deepEqual(series.map(({ name, kind, points }) => [name, kind, points[0]![1]]), [
      ["a<b", "dots", 2 / 3],
      ["none", "dots", 0],
      ["oracle", "level", 0.75],
    ]);
  });

  it("count every request of the trace into a window", () => {
    const offered = plots(LOAD, REPORT)[1]!.series[0]!.points;
    ok(Math.abs(offered.reduce((sum, [, perSecond]) => sum + perSecond / offered.length, 0) - 3) < 1e-9);
  });
});

describe("reportPage()", () => {
  it("is one document that asks for nothing else and holds all plots", () => {
    const html = reportPage(REPORT);
    match(html, /^<!doctype html>/);
    ok(!/(src|href|url\(|@import)/.test(html));
    equal(html.match(/<svg /g)?.length, plots(LOAD, REPORT).length);
    match(html, /a&lt;b/);
    ok(!/NaN|undefined|a<b/.test(html));
  });
});
