import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, throws } from "node:assert/strict";
import { calibrationData } from "./calibration.ts";

const TEXT = Array.from({ length: 1000 }, (_, i) => i);

describe("calibrationData()", () => {
  it("cuts windows of the first nine tenths, and consecutive ones of the last", () => {
    const { windows, heldOut } = calibrationData(TEXT, { samples: 50, length: 40, seed: 1 });
    equal(windows.length, 50);
    for (const window of windows) deepEqual([...window], TEXT.slice(window[0]!, Math.min(window[0]! + 40, 900)));
    deepEqual(heldOut.map((window) => [window.length, window[0]]), [[40, 900], [40, 940]]);
  });

  it("copies the text once, however many windows there are", () => {
    const { windows, heldOut } = calibrationData(TEXT, { samples: 500, length: 100, seed: 1 });
    equal(new Set([...windows, ...heldOut].map(({ buffer }) => buffer)).size, 1);
  });

  it("refuses a text that is too short", () => {
    throws(() => calibrationData(TEXT, { samples: 2, length: 101, seed: 1 }), { name: "RangeError" });
  });
});
