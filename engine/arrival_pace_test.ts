import { ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { ArrivalPace } from "./arrival_pace.ts";

describe("ArrivalPace", () => {
  const paceAfter = (pace: ArrivalPace, seconds: number, perSecond: number, from = { count: 0, second: 0 }) => {
    let last = NaN;
    for (let i = 0; i <= seconds; i++) last = pace.read(from.count + i * perSecond, 1000 * (from.second + i));
    return last;
  };

  it("is that of what comes evenly, once it is believed", () => {
    for (const seconds of [10, 40]) {
      ok(Math.abs(paceAfter(new ArrivalPace(seconds), 5, 3) - 3) < 1e-9, `over ${seconds} s`);
      ok(paceAfter(new ArrivalPace(seconds), 1, 3) < 1.5, `over ${seconds} s, after one`);
    }
  });

  it("goes the way from one pace to another that its time gives", () => {
    const pace = new ArrivalPace(10);
    paceAfter(pace, 1000, 1);
    const after = paceAfter(pace, 10, 5, { count: 1000, second: 1000 });
    ok(Math.abs(after - (5 - 4 / Math.E)) < 1e-9, `${after}`);
  });

  it("is what it was when it is read again at the same moment", () => {
    const pace = new ArrivalPace(10);
    const once = paceAfter(pace, 20, 2);
    ok(pace.read(40, 20_000) === once && once > 0);
  });
});
