import { deepEqual, equal, match, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { escapeXml, type Plot, plotSvg, ticks } from "./plot.ts";

const PLOT: Plot = {
  title: "Met <all>",
  x: { label: "rate", range: [0, 1] },
  y: { label: "share", range: [0, 1], percent: true },
  series: [{ name: 'a "b"', colour: 0, kind: "line", points: [[0, 0], [0.5, NaN], [1, 1]] }],
};

describe("ticks()", () => {
  it("are round and within the ends", () => {
    deepEqual(ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]);
    deepEqual(ticks(0, 0.35), [0, 0.1, 0.2, 0.3]);
    deepEqual(ticks(-3, 7), [-2, 0, 2, 4, 6]);
    for (const end of [1e-4, 0.07, 1.05, 13, 999, 12_345]) {
      const found = ticks(0, end);
      ok(found.length >= 3 && found.length <= 9 && found[0] === 0 && found.at(-1)! <= end, `${end}: ${found}`);
    }
  });
});

describe("plotSvg()", () => {
  it("puts the ends of the axes into the corners, and leaves out what is no number", () => {
    match(plotSvg(PLOT), /<polyline points="58,278 546,30"/);
  });

  it("draws dots and levels", () => {
    const dots = plotSvg({ ...PLOT, series: [{ ...PLOT.series[0]!, kind: "dots" }] });
    equal(dots.match(/<circle /g)?.length, 2);
    const level = plotSvg({ ...PLOT, series: [{ ...PLOT.series[0]!, kind: "level", points: [[0.5, 0.5]] }] });
    match(level, /<line x1="58" y1="154" x2="546" y2="154" [^>]*dasharray/);
    equal(level.match(/<circle /g)?.length, 1);
  });

  it("writes names as text", () => {
    const svg = plotSvg(PLOT);
    match(svg, /Met &lt;all&gt;<\/text>/);
    match(svg, /<title>a &quot;b&quot;<\/title>/);
    match(svg, />40 %</);
  });

  it("finds ends for what has none, even without points", () => {
    const axis = { label: "any" };
    for (const points of [[], [[0, 0]], [[-5, 1e6], [7, 2]]] as [number, number][][]) {
      const svg = plotSvg({ title: "", x: axis, y: axis, series: [{ ...PLOT.series[0]!, points }] });
      ok(!/NaN|Infinity|undefined/.test(svg), svg);
    }
  });
});

describe("escapeXml()", () => {
  it("leaves nothing that ends text or an attribute", () => equal(escapeXml(`<&">'`), "&lt;&amp;&quot;&gt;'"));
});
