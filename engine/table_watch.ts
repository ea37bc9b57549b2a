import type { Metrics } from "./metrics.ts";
import { histogramSeries, plainSeries } from "./registered_series.ts";
import type { StepTable } from "./step_costs.ts";

/** A difference that is no reason to write a table anew, as a share. */
const TOLERANCE = 0.1;

/** Steps that tell something about a span of time. */
const STEPS_NEEDED = 50;

/** Spans of time in a row that differ to the same side. */
const SPANS_NEEDED = 5;

/**
 * Finds tables that were measured in an unusual moment: steps take longer than the table says, or shorter, for several
 * spans of time in a row. While the service runs the predictor corrects itself; what is kept for the next start is to be
 * corrected too.
 */
export class TableWatch {
  readonly #metrics: Pick<Metrics, "stepSeconds" | "stepPredictedSeconds">;
  #seen = { measured: 0, predicted: 0, steps: 0 };
  /** By what the table was corrected already. */
  #factor = 1;
  #ratios: number[] = [];

  constructor(metrics: Pick<Metrics, "stepSeconds" | "stepPredictedSeconds">) {
    this.#metrics = metrics;
  }

  /** Looks at the steps since the last time. @returns What the table's times are to be multiplied by, if they are. */
  look(): number | null {
    const series = histogramSeries(this.#metrics.stepSeconds);
    const now = {
      measured: series.reduce((total, { sum }) => total + sum, 0),
      steps: series.reduce((total, { count }) => total + count, 0),
      predicted: plainSeries(this.#metrics.stepPredictedSeconds).reduce((total, { value }) => total + value, 0),
    };
    const { measured, steps, predicted } = this.#seen;
    if (now.steps - steps < STEPS_NEEDED) return null;
    const ratio = (now.measured - measured) / (now.predicted - predicted);
    this.#seen = now;
    const side = (of: number) => Math.abs(of / this.#factor - 1) <= TOLERANCE ? 0 : Math.sign(of - this.#factor);
    if (side(ratio) === 0 || this.#ratios.some((other) => side(other) !== side(ratio))) this.#ratios = [];
    if (side(ratio) === 0) return null;
    this.#ratios.push(ratio);
    if (this.#ratios.length < SPANS_NEEDED) return null;
    this.#factor = Math.exp(this.#ratios.reduce((sum, of) => sum + Math.log(of), 0) / this.#ratios.length);
    this.#ratios = [];
    return this.#factor;
  }
}

/** A table with all of its times multiplied. */
export function scaledTable(table: StepTable, factor: number): StepTable {
  const scaled = (times: readonly number[]) => times.map((ms) => ms * factor);
  return {
    rows: table.rows,
    stepMs: table.stepMs.map(scaled),
    decodeContextMs: scaled(table.decodeContextMs),
    prefillContextMs: scaled(table.prefillContextMs),
  };
}
