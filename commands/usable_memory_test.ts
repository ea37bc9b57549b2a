import { equal } from "node:assert/strict";
import process from "node:process";
import { describe, it } from "@std/testing/bdd";
import { usableMemory } from "./usable_memory.ts";

describe("usableMemory()", () => {
  it("is what the container may have, where that is less than there is", () => equal(usableMemory(8e9, 2e9), 2e9));

  it("is all there is in a container that may have more", () => equal(usableMemory(8e9, 2 ** 63), 8e9));

  it("is all there is where nobody knows of a container", () => equal(usableMemory(8e9, 0), 8e9));

  it("asks the system where it is not told", () => {
    equal(usableMemory(Number.MAX_VALUE), process.constrainedMemory());
  });
});
