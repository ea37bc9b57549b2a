import { equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { coreCount, physicalCores } from "./physical_cores.ts";

describe("physicalCores()", () => {
  it("counts threads of one core once", () => {
    equal(coreCount(["0,4\n", "1,5\n", "0,4\n", "1,5\n"]), 2);
    equal(coreCount(["0\n", "1\n"]), 2);
  });

  it("finds one core at least, and no more than can be used", () => {
    ok(physicalCores() >= 1 && physicalCores() <= navigator.hardwareConcurrency);
  });
});
