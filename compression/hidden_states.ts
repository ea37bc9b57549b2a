import { embed } from "../models/dense_model.ts";
import type { Floats } from "../models/floats.ts";

/** Activations of every calibration window between two blocks: `[windows][T, D]`, in one array. */
export class HiddenStates {
  readonly windows: readonly Floats[];
  /** The windows, one after the other. */
  readonly all: Floats;

  constructor(all: Floats, count: number) {
    this.all = all;
    const each = all.length / count;
    this.windows = Array.from({ length: count }, (_, i) => all.subarray(i * each, (i + 1) * each));
  }

  /** Rows of an embedding: what enters the first block. */
  static embed(embedding: Float32Array, windows: readonly Int32Array[], hiddenSize: number): HiddenStates {
    const each = windows[0]!.length * hiddenSize;
    const all = new Float32Array(windows.length * each);
    windows.forEach((window, i) => all.set(embed(embedding, window, hiddenSize), i * each));
    return new HiddenStates(all, windows.length);
  }

  copy(): HiddenStates {
    return new HiddenStates(this.all.slice(), this.windows.length);
  }
}

/** What an RMS norm makes of rows `[T, D]`, of which it is given the weight `[D]`. */
export function normalized(rows: Floats, weight: Floats, epsilon: number): Floats {
  const width = weight.length;
  const normed = rows.slice();
  for (let start = 0; start < normed.length; start += width) {
    let squares = 0;
    for (let i = start; i < start + width; i++) squares += normed[i]! * normed[i]!;
    const scale = 1 / Math.sqrt(squares / width + epsilon);
    for (let i = 0; i < width; i++) normed[start + i]! *= scale * weight[i]!;
  }
  return normed;
}

/**
 * Mean cosine distance between what enters and what leaves a layer, its block influence (uniql.md §4).
 *
 * @param tokens Which rows of a window count.
 * @returns The mean of `1 − cos`.
 */
export function influenceOf(
  before: HiddenStates,
  after: HiddenStates,
  hiddenSize: number,
  tokens: "all" | "last",
): number {
  const floor = 1e-6; // keeps a row of zeros from dividing by zero
  let [sum, count] = [0, 0];
  before.windows.forEach((x, window) => {
    const y = after.windows[window]!;
    for (let start = tokens === "last" ? x.length - hiddenSize : 0; start < x.length; start += hiddenSize) {
      let [xx, xy, yy] = [0, 0, 0];
      for (let i = start; i < start + hiddenSize; i++) {
        xx += x[i]! * x[i]!;
        xy += x[i]! * y[i]!;
        yy += y[i]! * y[i]!;
      }
      sum += 1 - xy / ((Math.sqrt(xx) + floor) * (Math.sqrt(yy) + floor));
      count++;
    }
  });
  return sum / count;
}
