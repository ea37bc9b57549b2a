import { doesNotThrow, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { checkOpenFiles } from "./open_files.ts";

describe("checkOpenFiles()", () => {
  it("takes as many connections as fit beside other files and a backlog of more", () =>
    doesNotThrow(() => checkOpenFiles(449, 1024)));

  it("refuses one more, and says how many fit", () =>
    throws(() => checkOpenFiles(450, 1024), {
      name: "RangeError",
      message: "--max-connections 450 needs 1025 files, and 1024 can be open: raise ulimit -n, or give " +
        "--max-connections 449",
    }));

  it("suggests no number where none fits", () => throws(() => checkOpenFiles(1, 64), /can be open: raise ulimit -n$/));
});
