import { describe, it } from "@std/testing/bdd";
import { deepEqual, rejects } from "node:assert/strict";
import { RangeFile } from "./range_file.ts";

async function withFile(test: (file: RangeFile, path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile();
  try {
    await Deno.writeFile(path, Uint8Array.from({ length: 200 }, (_, i) => i));
    using file = await RangeFile.open(path);
    await test(file, path);
  } finally {
    await Deno.remove(path);
  }
}

describe("RangeFile", () => {
  it("gives every reader its own range, even all at once", () =>
    withFile(async (file) => {
      const starts = Array.from({ length: 50 }, (_, i) => (i * 37) % 190);
      const ranges = await Promise.all(starts.map((start) => file.read(start, 10)));
      deepEqual(ranges.map(([first]) => first), starts);
      deepEqual(ranges.map((range) => range[9]), starts.map((start) => start + 9));
    }));

  it("refuses to read beyond the end, and reads on after a failure", () =>
    withFile(async (file, path) => {
      await rejects(file.read(195, 6), { name: "RangeError", message: /6 bytes at 195 .* has 200 bytes/ });
      await Deno.truncate(path, 100);
      await rejects(file.read(90, 20), { name: "RangeError", message: /shortened/ });
      deepEqual([...await file.read(3, 2)], [3, 4]);
    }));
});
