import { uniformInt } from "pure-rand/distribution/uniformInt";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";

export interface CalibrationData {
  /** Windows that statistics and Hessians are made from. */
  readonly windows: readonly Int32Array[];
  /** The texts that they are cut from: all of each but its end. */
  readonly texts: readonly Int32Array[];
  /** Windows of the texts' ends, which calibration never sees: the report's perplexity is measured on them. */
  readonly heldOut: readonly Int32Array[];
}

/** The last part of each text is held out, and at most so many windows in all are measured. */
const HELD_OUT_SHARE = 0.1;
const MAX_HELD_OUT = 8;

/**
 * Cuts tokenized texts into random windows for calibration, and consecutive ones of their ends for the report. The texts
 * take turns, so that each has its part in both, however long it is.
 *
 * @param samples Windows wanted.
 * @param length Tokens of each.
 * @throws {RangeError} If a text is too short to hold its windows in each part, or there are more texts than windows.
 */
export function calibrationData(
  tokenized: readonly ArrayLike<number>[],
  { samples, length, seed }: { samples: number; length: number; seed: number },
): CalibrationData {
  if (samples < tokenized.length) {
    throw new RangeError(
      `Cannot calibrate with ${samples} windows of ${tokenized.length} texts: each has one at least`,
    );
  }
  // Windows are views: copies of many long ones would take their time and memory before anyone asks whether there is any.
  const parts = tokenized.map((tokens, i) => {
    const border = Math.floor(tokens.length * (1 - HELD_OUT_SHARE));
    const own = Math.ceil((samples - i) / tokenized.length);
    if (border - length < own - 1 || tokens.length - border < length) {
      throw new RangeError(
        `Cannot calibrate with ${own} windows of ${length} tokens: ` +
          `${tokenized.length === 1 ? "the text" : `text ${i + 1} of ${tokenized.length}`} has ${tokens.length}, of ` +
          "which the last tenth is held out",
      );
    }
    const all = Int32Array.from(tokens);
    return { text: all.subarray(0, border), end: all.subarray(border) };
  });
  const random = xoroshiro128plus(seed);
  const windows = Array.from({ length: samples }, (_, i) => {
    const { text } = parts[i % parts.length]!;
    const start = uniformInt(random, 0, text.length - length);
    return text.subarray(start, start + length);
  });
  const heldOut: Int32Array[] = [];
  for (let start = 0; parts.some(({ end }) => start + length <= end.length); start += length) {
    for (const { end } of parts) if (start + length <= end.length) heldOut.push(end.subarray(start, start + length));
  }
  return { windows, texts: parts.map(({ text }) => text), heldOut: heldOut.slice(0, MAX_HELD_OUT) };
}
