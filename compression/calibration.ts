import { uniformInt } from "pure-rand/distribution/uniformInt";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";

export interface CalibrationData {
  /** Windows that statistics and Hessians are made from. */
  readonly windows: readonly Int32Array[];
  /** The text that they are cut from: all of it but its end. */
  readonly text: Int32Array;
  /** Windows of the text's end, which calibration never sees: the report's perplexity is measured on them. */
  readonly heldOut: readonly Int32Array[];
}

/** The last part of the text is held out, and at most so many windows of it are measured. */
const HELD_OUT_SHARE = 0.1;
const MAX_HELD_OUT = 8;

/**
 * Cuts a tokenized text into random windows for calibration, and consecutive ones of its end for the report.
 *
 * @param samples Windows wanted.
 * @param length Tokens of each.
 * @throws {RangeError} If the text is too short to hold a window in each part.
 */
export function calibrationData(
  tokens: ArrayLike<number>,
  { samples, length, seed }: { samples: number; length: number; seed: number },
): CalibrationData {
  const border = Math.floor(tokens.length * (1 - HELD_OUT_SHARE));
  const places = border - length;
  const heldOutCount = Math.min(MAX_HELD_OUT, Math.floor((tokens.length - border) / length));
  if (places < samples - 1 || heldOutCount < 1) {
    throw new RangeError(
      `Cannot calibrate with ${samples} windows of ${length} tokens: the text has ${tokens.length}, of which the last ` +
        `tenth is held out`,
    );
  }
  const random = xoroshiro128plus(seed);
  // Windows are views: copies of many long ones would take their time and memory before anyone asks whether there is any.
  const all = Int32Array.from(tokens);
  const window = (start: number) => all.subarray(start, start + length);
  return {
    windows: Array.from({ length: samples }, () => window(uniformInt(random, 0, places))),
    text: all.subarray(0, border),
    heldOut: Array.from({ length: heldOutCount }, (_, i) => window(border + i * length)),
  };
}
