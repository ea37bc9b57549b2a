import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, throws } from "node:assert/strict";
import { calibrationData } from "./calibration.ts";

const TEXT = Array.from({ length: 1000 }, (_, i) => i);

describe("calibrationData()", () => {
  it("cuts windows of the first nine tenths, and consecutive ones of the last", () => {
    const { windows, heldOut } = calibrationData([TEXT], { samples: 50, length: 40, seed: 1 });
    equal(windows.length, 50);
    for (const window of windows) deepEqual([...window], TEXT.slice(window[0]!, Math.min(window[0]! + 40, 900)));
    deepEqual(heldOut.map((window) => [window.length, window[0]]), [[40, 900], [40, 940]]);
  });

  it("copies the text once, however many windows there are", () => {
    const { windows, heldOut } = calibrationData([TEXT], { samples: 500, length: 100, seed: 1 });
    equal(new Set([...windows, ...heldOut].map(({ buffer }) => buffer)).size, 1);
  });

  it("takes texts in turn, however long they are, for windows and for what is held out", () => {
    const short = Array.from({ length: 200 }, (_, i) => 5000 + i);
    const { windows, texts, heldOut } = calibrationData([TEXT, short], { samples: 5, length: 20, seed: 1 });
    const ofShort = (window: Int32Array) => window[0]! >= 5000;
    deepEqual(windows.map(ofShort), [false, true, false, true, false]);
    for (const window of windows) {
      const [text, border] = ofShort(window) ? [short, 180] : [TEXT, 900];
      const start = text.indexOf(window[0]!);
      deepEqual([...window], text.slice(start, Math.min(start + 20, border)));
    }
    deepEqual(texts.map((text) => [text[0], text.length]), [[0, 900], [5000, 180]]);
    deepEqual(heldOut.map((window) => window[0]), [900, 5180, 920, 940, 960, 980]);
  });

  it("measures as many windows of several texts as of one", () => {
    const { heldOut } = calibrationData([TEXT, TEXT, TEXT], { samples: 3, length: 20, seed: 1 });
    deepEqual(heldOut.map((window) => window[0]), [900, 900, 900, 920, 920, 920, 940, 940]);
  });

  it("refuses a text that is too short, and tells which, and more texts than windows", () => {
    const refused = (texts: number[][], samples: number, message: RegExp) =>
      throws(() => calibrationData(texts, { samples, length: 101, seed: 1 }), { name: "RangeError", message });
    refused([TEXT], 2, /2 windows of 101 tokens: the text has 1000, of which the last tenth is held out/);
    refused([[...TEXT, ...TEXT], TEXT], 3, /1 windows of 101 tokens: text 2 of 2 has 1000/);
    refused([TEXT, TEXT, TEXT], 2, /2 windows of 3 texts/);
  });
});
