import type { MeasuredCosts } from "./measured_costs.ts";
import type { LoadReport, ReplayReport, RoundReport } from "./report.ts";
import type { Percentiles } from "./summary.ts";

/** A table of text. */
export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** How the policies did at one load, the oracle below them. */
export function policyTable({ runs, oracle }: LoadReport): Table {
  const head = [
    ...[
      "policy",
      "met",
      "met of admitted",
      "mean rate",
      "largest rate",
      "mean perplexity",
      "goodput tokens/s",
      "refused",
    ],
    ...[
      "refusal p99 ms",
      "/metrics, /readyz p99 ms",
      "TTFT ms",
      "per token ms",
      "total ms",
      "prediction error",
      "after 20 s",
      "switches/min",
    ],
    ...["failed", "decisions simulated"],
  ];
  const rows = runs.map(({ policy, summary, simulated }) => [
    policy,
    percent(summary.attainment),
    percent(summary.admittedMet),
    fixed(summary.meanRate, 3),
    fixed(summary.meanLargestRate, 3),
    fixed(summary.meanPerplexity, 2),
    fixed(summary.goodputTokensPerSecond, 1),
    percent(summary.refused / summary.offered),
    fixed(summary.refusalP99Ms, 0),
    `${fixed(summary.probeP99Ms.metrics, 0)}, ${fixed(summary.probeP99Ms.readyz, 0)}`,
    percentiles(summary.ttftMs, 0),
    percentiles(summary.perTokenMs, 1),
    percentiles(summary.totalMs, 0),
    percent(summary.predictionError),
    percent(summary.settledPredictionError),
    fixed(summary.switchesPerMinute, 1),
    String(summary.failed),
    `${percent(simulated.attainment)} at ${fixed(simulated.meanRate, 3)}`,
  ]);
  if (oracle !== null) {
    rows.push(["oracle", percent(oracle.attainment), percent(1), fixed(oracle.meanRate, 3)]);
  }
  return { head, rows: rows.map((row) => head.map((_, i) => row[i] ?? "")) };
}

/** Prediction errors around the moment when half of the cores were taken away; `null` if they were not. */
export function halfCpuTable({ runs }: LoadReport): Table | null {
  const rows = runs.flatMap(({ policy, halfCpu }) =>
    halfCpu === null ? [] : [[policy, percent(halfCpu.before), percent(halfCpu.within), percent(halfCpu.after)]]
  );
  return rows.length === 0
    ? null
    : { head: ["policy", "error before", "in the first 20 s after", "from 20 s after on"], rows };
}

/** Measured costs of steps. */
export function costTable({ pruningRates, decodeMs, prefillMs }: MeasuredCosts): Table {
  return {
    head: [
      "rate",
      ...decodeMs[0]!.map((_, i) => `decode ${i + 1}`),
      ...prefillMs[0]!.map(({ rows }) => `prefill ${rows}`),
    ],
    rows: pruningRates.map((rate, level) => [
      String(rate),
      ...decodeMs[level]!.map((ms) => fixed(ms, 1)),
      ...prefillMs[level]!.map(({ ms }) => fixed(ms, 1)),
    ]),
  };
}

/** What was run, in lines. */
export function reportLines(report: ReplayReport): string[] {
  const { model, engine, kernels, threads, slots, seconds, onMiss, budgets, rounds } = report;
  const half = report.halfCpuAtSeconds;
  const each = (of: (round: RoundReport) => string) => rounds.map(of).join(", ");
  const multiples = Object.entries(budgets).map(([name, multiple]) => `${name} ${multiple} ×`).join(", ");
  return [
    `${model}: ${engine}, ${kernels} kernels, ${threads} threads, ${slots} slots`,
    `Trace: ${report.trace}, ${seconds} s, seed ${each(({ seed }) => String(seed))}; on_miss ${onMiss}`,
    `Budgets: ${multiples} the time of the request alone at rate 0`,
    `Rate 0 sustains ${each(({ capacity }) => capacity.toFixed(2))} requests/s; a client waits ` +
    `${each(({ costs }) => costs.overheadMs.toFixed(1))} ms for the way`,
    ...(half === null
      ? []
      : [`Half of the cores were taken away after ${half} s${rounds.length === 1 ? "" : " of each trace"}`]),
  ];
}

/** The whole report in Markdown. */
export function markdown(report: ReplayReport): string {
  return [
    reportLines(report).map((line) => `- ${line}`).join("\n"),
    ...report.loads.flatMap((load) => {
      const half = halfCpuTable(load);
      return [
        `### ${load.load} × what rate 0 sustains: ${load.requests.length} requests`,
        markdownTable(policyTable(load)),
        ...(half === null ? [] : [markdownTable(half)]),
      ];
    }),
  ].join("\n\n");
}

function markdownTable({ head, rows }: Table): string {
  const widths = head.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`;
  return [line(head), `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`, ...rows.map(line)].join("\n");
}

/** A number, or a dash where there was nothing to count. */
function fixed(value: number, digits: number): string {
  return Number.isFinite(value) ? value.toFixed(digits) : "–";
}

function percent(share: number): string {
  return Number.isNaN(share) ? "–" : `${(100 * share).toFixed(1)} %`;
}

function percentiles({ p50, p95, p99 }: Percentiles, digits: number): string {
  return [p50, p95, p99].map((value) => fixed(value, digits)).join(" / ");
}
