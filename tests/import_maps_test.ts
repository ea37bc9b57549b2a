import { describe, it } from "@std/testing/bdd";
import { deepEqual } from "node:assert/strict";
import project from "../deno.json" with { type: "json" };
import jsr from "./support/jsr_import_map.json" with { type: "json" };

describe("The import map of `deno task test:jsr`", () => {
  it("differs from the project's in the test library alone", () => {
    const { "@std/testing/bdd": adapter, ...ours } = project.imports;
    const { "@std/testing/bdd": library, ...theirs } = jsr.imports;
    deepEqual(theirs, ours);
    deepEqual([adapter, library.startsWith("jsr:@std/testing@")], ["./tests/support/bdd.ts", true]);
  });
});
