import type { Report } from "../compression/report.ts";
import { table } from "./text_table.ts";

/** The report as a table to read. */
export function formatReport(report: Report): string {
  const percent = (value: number) => `${Math.round(value * 100)} %`;
  const rates = table(
    ["rate", "parameters", "MB", "MB/token", "perplexity"],
    report.levels.map(({ pruningRate, keptParameters, bytes, bytesPerToken, perplexity }) => [
      percent(pruningRate),
      `${(keptParameters / 1e6).toFixed(1)} M`,
      (bytes / 1e6).toFixed(1),
      (bytesPerToken / 1e6).toFixed(1),
      perplexity?.toFixed(3) ?? "–",
    ]),
  );
  const layers = table(
    ["block", "influence", "kept widths", "worst error"],
    report.layers.map(({ block, influence, widths, stateWidths, errors }) => [
      block,
      influence.toFixed(3),
      [widths, stateWidths ?? []].filter((axis) => axis.length > 0).map((axis) => axis.join(" ")).join(" | "),
      Math.max(...errors.map(({ relativeError }) => relativeError)).toFixed(4),
    ]),
  );
  const memory = table(
    ["GB", "float16", "int4", "int4, 35 %"],
    report.memory.map(({ model, float16, rate0, rate35 }) => [
      model,
      ...[float16, rate0, rate35].map((bytes) => bytes.toFixed(bytes < 1 ? 3 : 2)),
    ]),
  );
  const recovered = report.recovery === null ? [] : [recoveryLine(report.recovery)];
  return [rates, ...recovered, layers, memory].join("\n\n");
}

function recoveryLine({ steps, first, last }: NonNullable<Report["recovery"]>): string {
  const [before, after] = [first, last].map((divergence) => divergence.toFixed(3));
  return `Recovery: ${before} nats per token from the whole model in the first tenth of ${steps} steps, ${after} in the last.`;
}
