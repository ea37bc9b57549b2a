import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { randomFor } from "./random.ts";
import { fillWindow, fillWithRandomWindows, joinStories } from "./windows.ts";

const STREAM = joinStories([[0, 1, 2], [0, 3], [0, 4, 5, 6, 7], [0, 8, 9]]);
const emptyBatch = (rows: number) => ({ tokens: new BigInt64Array(rows), targets: new BigInt64Array(rows) });

describe("joinStories()", () => {
  it("puts stories end to end and knows where they begin", () => {
    deepEqual([...STREAM.tokens], [0, 1, 2, 0, 3, 0, 4, 5, 6, 7, 0, 8, 9]);
    deepEqual(STREAM.starts, [0, 3, 5, 10]);
  });
});

describe("fillWindow()", () => {
  it("gives each token the next one as its target", () => {
    const batch = emptyBatch(6);
    fillWindow(STREAM.tokens, 5, 3, batch, 3);
    deepEqual([...batch.tokens], [0n, 0n, 0n, 0n, 4n, 5n]);
    deepEqual([...batch.targets], [0n, 0n, 0n, 4n, 5n, 6n]);
  });
});

describe("fillWithRandomWindows()", () => {
  const length = 4;
  const batches = Array.from({ length: 50 }, (_, step) => {
    const batch = emptyBatch(6 * length);
    fillWithRandomWindows(STREAM, length, batch, randomFor(1, "windows", step));
    return batch;
  });

  it("takes every other window from the start of a story", () => {
    for (const { tokens } of batches) {
      for (const row of [0, 2, 4]) equal(tokens[row * length], 0n);
    }
  });

  it("takes windows that lie in the stream, and all of those", () => {
    const seen = new Set(batches.flatMap(({ tokens, targets }) =>
      Array.from({ length: 6 }, (_, row) => {
        const window = [...tokens.subarray(row * length, (row + 1) * length), targets[(row + 1) * length - 1]!];
        return window.join();
      })
    ));
    const possible = Array.from(
      { length: 9 },
      (_, start) => [...STREAM.tokens.slice(start, start + length + 1)].join(),
    );
    deepEqual([...seen].sort(), possible.sort());
  });

  it("refuses a stream without room for a window", () => {
    throws(() => fillWithRandomWindows(STREAM, 13, emptyBatch(13), () => 0), {
      name: "RangeError",
      message: "Cannot take windows of 13 tokens and a target from 13: too few",
    });
  });

  it("draws the same windows again from the same numbers", () => {
    const batch = emptyBatch(6 * length);
    fillWithRandomWindows(STREAM, length, batch, randomFor(1, "windows", 7));
    deepEqual(batch, batches[7]);
    ok(batch.tokens.some((token, i) => token !== batches[8]!.tokens[i]));
  });
});
