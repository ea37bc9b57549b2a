/** What steps of this model cost on this machine when nothing else runs; measured once, by `measureSteps()`. */
export interface StepTable {
  /** Rows of the measured steps, 1 first, rising. */
  readonly rows: readonly number[];
  /** Milliseconds of a step per level and size, with short contexts; no narrower level costs more. */
  readonly stepMs: readonly (readonly number[])[];
  /** Milliseconds that one token of context adds to a decode row, per level. */
  readonly decodeContextMs: readonly number[];
  /** Milliseconds that one token of context adds to a prompt row, per level. */
  readonly prefillContextMs: readonly number[];
}

/** A sequence's part in a step. */
export interface StepPart {
  readonly level: number;
  readonly phase: Phase;
  readonly rows: number;
  /** Tokens before these rows. */
  readonly context: number;
}

/** A step with a prompt row in it is of phase `prefill`. */
export type Phase = "prefill" | "decode";

/**
 * Times of any step from the table.
 *
 * A step with several levels does for its widest rows what their level does, and for all its rows what the narrowest
 * level does. So what level l adds to level l + 1 is paid once for the e rows that are at least that wide:
 * `t(L, e_L) + Σ_l [t(l, e_l) − t(l + 1, e_l)]`, with t on lines between the measured sizes. For one level that is t.
 */
export class StepCosts {
  readonly levels: number;
  readonly #table: StepTable;
  /** t per level and number of rows, from 0 to the largest measured. */
  readonly #stepMs: readonly Float64Array[];
  readonly #mostRows: number;

  /** @throws {RangeError} If the table has no levels, lists of different lengths, or sizes that do not rise from 1. */
  constructor(table: StepTable) {
    const { rows, stepMs, decodeContextMs, prefillContextMs } = table;
    const complete = stepMs.length > 0 && stepMs.every((times) => times.length === rows.length) &&
      decodeContextMs.length === stepMs.length && prefillContextMs.length === stepMs.length;
    if (!complete) throw new RangeError("Cannot predict from a step table whose lists have different lengths");
    if (rows[0] !== 1 || rows.some((count, i) => i > 0 && count <= rows[i - 1]!)) {
      throw new RangeError(`Cannot predict from step sizes ${rows.join(", ")}: they must rise from 1`);
    }
    this.levels = stepMs.length;
    this.#table = table;
    this.#mostRows = rows.at(-1)!;
    this.#stepMs = stepMs.map((times) => everySize(rows, times));
  }

  /** @param parts One or more, in any order. @returns Milliseconds. */
  stepMs(parts: readonly StepPart[]): number {
    const { decodeContextMs, prefillContextMs } = this.#table;
    let ms = 0;
    let [rows, widest] = [0, this.levels];
    for (const part of parts) {
      rows += part.rows;
      widest = Math.min(widest, part.level);
      const contextMs = part.phase === "decode" ? decodeContextMs : prefillContextMs;
      ms += contextMs[part.level]! * part.rows * part.context;
    }
    ms += this.#rowsMs(this.levels - 1, rows);
    for (let level = widest; level < this.levels - 1; level++) {
      let wide = 0;
      for (const part of parts) if (part.level <= level) wide += part.rows;
      ms += this.#rowsMs(level, wide) - this.#rowsMs(level + 1, wide);
    }
    return ms;
  }

  #rowsMs(level: number, rows: number): number {
    const times = this.#stepMs[level]!;
    return rows <= this.#mostRows ? times[rows]! : times[this.#mostRows]! * rows / this.#mostRows;
  }
}

function everySize(rows: readonly number[], times: readonly number[]): Float64Array {
  const all = new Float64Array(rows.at(-1)! + 1);
  all[1] = times[0]!;
  for (let i = 1; i < rows.length; i++) {
    const [from, to] = [rows[i - 1]!, rows[i]!];
    for (let count = from + 1; count <= to; count++) {
      all[count] = times[i - 1]! + (times[i]! - times[i - 1]!) * (count - from) / (to - from);
    }
  }
  return all;
}

/** The widest level of a step, which its metrics carry. */
export function widestLevel(parts: readonly StepPart[]): number {
  return parts.reduce((widest, { level }) => Math.min(widest, level), Infinity);
}

/** The phase that a step counts as: prefill if any of its sequences is in it, which is what its time is made of. */
export function phaseOf(parts: readonly StepPart[]): Phase {
  return parts.some(({ phase }) => phase === "prefill") ? "prefill" : "decode";
}

/** What steps have in common whose times differ from the table alike. */
export interface StepKind {
  readonly phase: Phase;
  /** Those that have a part in it. */
  readonly sequences: number;
}

/** The kind of a step from its parts. */
export function kindOf(parts: readonly StepPart[]): StepKind {
  return { phase: phaseOf(parts), sequences: parts.length };
}
