import { KNOWN_SHAPES, type ShapeName } from "../models/known_shapes.ts";
import type { ModelConfig } from "../models/description.ts";
import { type ModelPlan, planModel } from "../models/plan.ts";
import { variantSize } from "../models/sizes.ts";
import { keptWidth, PRUNING_RATES, quantaFor } from "../models/widths.ts";

/** How well one stored matrix stands for the float one. */
export interface MatrixError {
  readonly matrix: string;
  /** `‖(W − Ŵ)·X‖ / ‖W·X‖` over the calibration activations. */
  readonly relativeError: number;
}

/** What `compress` found and made, for `report.json`. */
export interface Report {
  readonly model: string;
  readonly levels: readonly {
    readonly pruningRate: number;
    readonly keptParameters: number;
    readonly bytes: number;
    readonly bytesPerToken: number;
    readonly perplexity: number | null;
  }[];
  /** Embedding, head, and what stands between them. */
  readonly outer: readonly MatrixError[];
  readonly layers: readonly {
    readonly block: string;
    readonly influence: number;
    readonly widths: readonly number[];
    /** Kept states per level, of a Mamba block. */
    readonly stateWidths?: readonly number[];
    readonly errors: readonly MatrixError[];
  }[];
  readonly memory: readonly MemorySaving[];
  readonly seconds: number;
}

/** Weights in 10⁹ bytes, against the same model in float16. */
export interface MemorySaving {
  readonly model: string;
  readonly float16: number;
  readonly rate0: number;
  readonly rate35: number;
}

/** Memory of a plan's widest and narrowest level. */
export function memorySaving(model: string, plan: ModelPlan, blockSize: number): MemorySaving {
  const last = plan.levels - 1;
  const whole = variantSize(plan, 0, blockSize);
  return {
    model,
    float16: 2 * whole.parameters / 1e9,
    rate0: whole.bytes / 1e9,
    rate35: variantSize(plan, last, blockSize).bytes / 1e9,
  };
}

/** Memory of published shapes, every layer cut alike, in blocks of 128 as in the paper. */
export function publishedMemory(names: readonly ShapeName[]): MemorySaving[] {
  return names.map((name) => memorySaving(name, uniformPlan(KNOWN_SHAPES[name], 128), 128));
}

/** A plan of a Transformer in which every layer has the global rate. */
function uniformPlan(config: ModelConfig, blockSize: number): ModelPlan {
  const quanta = quantaFor({ ...config, blockSize });
  const biased = config.family === "qwen2";
  const widths = (full: number, quantum: number) => PRUNING_RATES.map((rate) => keptWidth(full, rate, quantum));
  return planModel(
    config,
    Array.from({ length: config.numHiddenLayers }, () => [
      {
        kind: "attention" as const,
        widths: widths(config.headDim, quanta.head),
        queryKeyBias: biased,
        outputBias: biased,
      },
      { kind: "gatedMlp" as const, widths: widths(config.intermediateSize, quanta.mlp) },
    ]),
  );
}

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
  return [rates, layers, memory].join("\n\n");
}

/** Columns aligned: the first to the left, the others to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]!.length)));
  const line = (cells: readonly string[]) =>
    cells.map((cell, column) => column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)).join("  ");
  return [line(head), line(widths.map((width) => "─".repeat(width))), ...rows.map(line)].join("\n");
}
