/**
 * What steps of the service cost, as measured from outside. A wider level never costs less than a narrower one, and more
 * rows never less than fewer.
 */
export interface MeasuredCosts {
  /** Rates of the levels, 0 first. */
  readonly pruningRates: readonly number[];
  /** Milliseconds of a decode step, `[level][sequences − 1]`, for 1 sequence up to all slots. */
  readonly decodeMs: readonly (readonly number[])[];
  /** Milliseconds of a prefill step, `[level]`, by rows ascending; the first has one row, the last a whole chunk. */
  readonly prefillMs: readonly (readonly { readonly rows: number; readonly ms: number }[])[];
  /** What the client waits beyond the service's own time. */
  readonly overheadMs: number;
}

/** Costs of steps by the rows in them, in any mix of levels. */
export class StepClock {
  readonly levels: number;
  readonly slots: number;
  readonly chunk: number;
  /** What rows at this level or a wider one add to what the next narrower level costs, `[level][rows]`. */
  readonly #decode: Float64Array[];
  readonly #prefill: Float64Array[];

  constructor({ decodeMs, prefillMs }: Pick<MeasuredCosts, "decodeMs" | "prefillMs">) {
    this.levels = decodeMs.length;
    this.slots = decodeMs[0]!.length;
    this.chunk = prefillMs[0]!.at(-1)!.rows;
    this.#decode = aboveNext(decodeMs.map((ms) => Float64Array.from([0, ...ms])));
    this.#prefill = aboveNext(prefillMs.map((points) => interpolated(points, this.chunk + this.slots)));
  }

  /**
   * Milliseconds of a step. Rows are counted by level: `decode` of sequences that decode, `prefill` of prompts.
   *
   * An elastic product runs one segment for each level, on the rows at this level or a wider one. So a mixed step costs
   * what all rows cost at the narrowest level, and for each wider level what its rows add. Prompt rows beside decoding
   * ones cost what they add to as many prompt rows, which in a mix of levels that were not measured together can come to
   * less than nothing: then nothing.
   */
  stepMs(decode: ArrayLike<number>, prefill: ArrayLike<number>): number {
    let [decoding, all, decodeMs, promptMs] = [0, 0, 0, 0];
    for (let level = 0; level < this.levels; level++) {
      decoding += decode[level]!;
      all += decode[level]! + prefill[level]!;
      decodeMs += this.#decode[level]![decoding]!;
      if (all > decoding) promptMs += this.#prefill[level]![all]! - this.#prefill[level]![decoding]!;
    }
    return decodeMs + Math.max(0, promptMs);
  }

  /** Milliseconds from start to last token of a request that is alone. */
  aloneMs(level: number, promptTokens: number, newTokens: number): number {
    const rows = new Array<number>(this.levels).fill(0);
    const none = rows.slice();
    const prefill = (count: number) => this.stepMs(none, rows.with(level, count));
    const full = Math.floor(promptTokens / this.chunk) * prefill(this.chunk);
    const rest = promptTokens % this.chunk;
    return full + (rest === 0 ? 0 : prefill(rest)) + (newTokens - 1) * this.stepMs(rows.with(level, 1), none);
  }
}

function aboveNext(curves: readonly Float64Array[]): Float64Array[] {
  return curves.map((curve, level) => {
    const next = curves[level + 1];
    return next === undefined ? curve : curve.map((ms, rows) => ms - next[rows]!);
  });
}

/** Points on lines between the measured ones, for 0 rows (which cost nothing) to `last`. */
function interpolated(points: readonly { readonly rows: number; readonly ms: number }[], last: number): Float64Array {
  const curve = new Float64Array(last + 1);
  for (let rows = 1; rows <= last; rows++) {
    let i = points.findIndex((point) => point.rows >= rows);
    if (i === -1) i = points.length - 1;
    const [from, to] = [points[Math.max(0, i - 1)]!, points[i]!];
    curve[rows] = to.rows === from.rows
      ? to.ms * rows / to.rows
      : from.ms + (to.ms - from.ms) * (rows - from.rows) / (to.rows - from.rows);
  }
  return curve;
}
