import { describe, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { openKernels } from "./native_library.ts";
import { ReadLoop } from "./read_bandwidth.ts";

const { kernels } = await openKernels();

describe("ReadLoop", () => {
  for (const library of new Set([kernels?.path ?? null, null])) {
    it(`reads on two threads, and again, ${library === null ? "without" : "with"} our library`, async () => {
      using loop = new ReadLoop(2, library);
      for (let pass = 0; pass < 2; pass++) {
        const rate = await loop.measure();
        ok(rate > 0 && rate < 1e13, `${rate}`);
      }
    });
  }
});
