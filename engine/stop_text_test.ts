import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { StopText } from "./stop_text.ts";

function run(stops: string[], pieces: string[]): { texts: string[]; stopped: boolean } {
  const stopText = new StopText(stops);
  const texts = pieces.map((piece) => stopText.push(piece));
  return { texts: [...texts, stopText.flush()], stopped: stopText.stopped };
}

describe("StopText", () => {
  it("passes text through without stop strings", () => {
    deepEqual(run([], ["a", "b"]), { texts: ["a", "b", ""], stopped: false });
  });

  it("finds a stop string across pieces and drops what follows", () => {
    deepEqual(run(["END"], ["one E", "N", "D two", "three"]), { texts: ["one ", "", "", "", ""], stopped: true });
  });

  it("gives held text back when it was no stop string after all", () => {
    deepEqual(run(["END"], ["xE", "N", "x", "E"]), { texts: ["x", "", "ENx", "", "E"], stopped: false });
  });

  it("holds the longest possible start when starts overlap", () => {
    deepEqual(run(["aab"], ["aa", "a", "b"]), { texts: ["", "a", "", ""], stopped: true });
  });

  it("cuts at the stop string that begins first", () => {
    deepEqual(run(["cd", "bcd"], ["abcde"]).texts, ["a", ""]);
  });

  it("gives the same text however it is cut into pieces", () => {
    const text = "the end is near, the ending is not";
    const whole = run(["ending", "near."], [text]).texts.join("");
    equal(whole, "the end is near, the ");
    for (let size = 1; size < 8; size++) {
      const pieces = Array.from(
        { length: Math.ceil(text.length / size) },
        (_, i) => text.slice(i * size, (i + 1) * size),
      );
      equal(run(["ending", "near."], pieces).texts.join(""), whole);
    }
  });
});
