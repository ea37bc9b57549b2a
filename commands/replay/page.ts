import { mean, median } from "../statistics.ts";
import { colourOf, escapeXml, type Plot, plotSvg, type Series } from "./plot.ts";
import type { BudgetedRequest } from "./outcome.ts";
import type { LoadReport, PolicyRun, ReplayReport } from "./report.ts";
import { costTable, halfCpuTable, policyTable, reportLines, type Table } from "./tables.ts";

/** Windows that a run is divided into for what changes over time. */
const WINDOWS = 30;

const STYLE = `
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 1240px; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 0; } .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; } svg .title { font-weight: 600; }
svg .grid { stroke: currentColor; stroke-opacity: .15; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.legend span { display: inline-block; margin-right: 1.2rem; } .legend i { display: inline-block; width: .8em; height: .8em; }
`;

/** The report as one HTML page that needs nothing else. */
export function reportPage(report: ReplayReport): string {
  const title = `Replay of ${report.model}`;
  return [
    `<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>${escapeXml(title)}</title>`,
    `<meta name="viewport" content="width=device-width"><style>${STYLE}</style></head><body>`,
    `<h1>${escapeXml(title)}</h1>`,
    `<ul>${reportLines(report).map((line) => `<li>${escapeXml(line)}</li>`).join("")}</ul>`,
    ...report.loads.flatMap((load) => loadSection(load, report)),
    ...report.rounds.flatMap(({ seed, costs }) => [
      `<h2>What steps cost, in ms${report.rounds.length === 1 ? "" : ` (before seed ${seed})`}</h2>`,
      tableHtml(costTable(costs)),
    ]),
    "</body></html>\n",
  ].join("\n");
}

function loadSection(load: LoadReport, report: ReplayReport): string[] {
  const half = halfCpuTable(load);
  return [
    `<h2>${load.load} × what rate 0 sustains: ${load.requests.length} requests</h2>`,
    `<p class="legend">${
      legend(load).map(([name, colour]) => `<span><i style="background:${colour}"></i> ${escapeXml(name)}</span>`)
        .join("")
    }</p>`,
    `<div class="plots">${plots(load, report).map((plot) => `<figure>${plotSvg(plot)}</figure>`).join("\n")}</div>`,
    tableHtml(policyTable(load)),
    ...(half === null ? [] : [tableHtml(half)]),
  ];
}

function legend({ runs, oracle }: LoadReport): [name: string, colour: string][] {
  const names = [...runs.map(({ policy }) => policy), ...(oracle === null ? [] : ["oracle"])];
  return names.map((name, index) => [name, colourOf(index)]);
}

/** The plots of one load; over time, rounds follow each other. */
export function plots(
  { requests, runs, oracle }: LoadReport,
  { seconds: traceSeconds, rounds, halfCpuAtSeconds }: Pick<ReplayReport, "seconds" | "rounds" | "halfCpuAtSeconds">,
): Plot[] {
  const seconds = traceSeconds * rounds.length;
  const windows = <R extends BudgetedRequest>(of: readonly R[], value: (of: readonly R[]) => number) =>
    valueByWindow(of, { traceMs: 1000 * traceSeconds, lengthMs: 1000 * seconds, value });
  const each = (points: (run: PolicyRun) => [number, number][], kind: Series["kind"] = "line") =>
    runs.map((run, colour): Series => ({ name: run.policy, colour, kind, points: points(run) }));
  const best: Series[] = oracle === null
    ? []
    : [{ name: "oracle", colour: runs.length, kind: "level", points: [[oracle.meanRate, oracle.attainment]] }];
  const time = { label: "Arrival, s", range: [0, seconds] as const };
  const note = halfCpuAtSeconds === null
    ? ""
    : ` (half of the cores taken away at ${halfCpuAtSeconds} s${rounds.length === 1 ? "" : " of each trace"})`;
  return [
    {
      title: "Budgets met, and the quality given up for it",
      x: { label: "Mean pruning rate of answers" },
      y: { label: "Met, of all offered", range: [0, 1.02], percent: true },
      series: [...each(({ summary }) => [[summary.meanRate, summary.attainment]], "dots"), ...best],
    },
    {
      title: "Offered load",
      x: time,
      y: { label: "Requests/s" },
      series: [{
        name: "offered",
        colour: COLOUR_OF_LOAD,
        kind: "line",
        points: windows(requests, (of) => of.length / (seconds / WINDOWS)),
      }],
    },
    {
      title: `Rate over time${note}`,
      x: time,
      y: { label: "Mean pruning rate" },
      series: each(({ outcomes }) =>
        windows(
          outcomes,
          (of) => mean(of.flatMap(({ served }) => served === null ? [] : [served.pruningRate])),
        )
      ),
    },
    {
      title: "Answers by the time that they took",
      x: { label: "Sending to the whole answer, ms" },
      y: { label: "Share of answers", range: [0, 1.02], percent: true },
      series: each(({ outcomes }) => {
        const ms = outcomes.flatMap((outcome) => outcome.served === null ? [] : [outcome.ms]).sort((a, b) => a - b);
        return ms.map((value, i) => [value, (i + 1) / ms.length]);
      }),
    },
    {
      title: `Prediction error over time${note}`,
      x: time,
      y: { label: "Median relative error", percent: true },
      series: each(({ outcomes }) =>
        windows(outcomes, (of) =>
          median(
            of.flatMap(({ served }) => served === null ? [] : [Math.abs(served.predictedMs / served.totalMs - 1)]),
          ))
      ),
    },
  ];
}

/** Grey. */
const COLOUR_OF_LOAD = 6;

/** A value for every window of arrivals, at its middle in seconds. */
function valueByWindow<R extends BudgetedRequest>(
  requests: readonly R[],
  { traceMs, lengthMs, value }: {
    readonly traceMs: number;
    /** Of all rounds. */
    readonly lengthMs: number;
    readonly value: (of: readonly R[]) => number;
  },
): [number, number][] {
  const windowOf = ({ round, arrivalMs }: R) => Math.floor((round * traceMs + arrivalMs) * WINDOWS / lengthMs);
  const windows = Map.groupBy(requests, windowOf);
  return Array.from(
    { length: WINDOWS },
    (_, i) => [(i + 0.5) * lengthMs / WINDOWS / 1000, value(windows.get(i) ?? [])],
  );
}

function tableHtml({ head, rows }: Table): string {
  const line = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeXml(cell)}</${tag}>`).join("")}</tr>`;
  return `<div class="table"><table>${line(head, "th")}${rows.map((row) => line(row, "td")).join("")}</table></div>`;
}
