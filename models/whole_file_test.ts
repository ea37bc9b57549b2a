import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, rejects } from "node:assert/strict";
import { writeWhole } from "./whole_file.ts";

describe("writeWhole()", () => {
  it("replaces a file, and leaves nothing else", () =>
    inTempFolder(async (folder) => {
      await writeWhole(`${folder}/a`, "one, and longer");
      await writeWhole(`${folder}/a`, new Uint8Array([116, 119, 111]));
      equal(await Deno.readTextFile(`${folder}/a`), "two");
      deepEqual(await namesIn(folder), ["a"]);
    }));

  it("leaves what it cannot replace as it was, and nothing else", () =>
    inTempFolder(async (folder) => {
      await Deno.mkdir(`${folder}/a/b`, { recursive: true });
      await rejects(writeWhole(`${folder}/a`, "one"));
      deepEqual(await namesIn(folder), ["a"]);
      deepEqual(await namesIn(`${folder}/a`), ["b"]);
    }));
});

async function inTempFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function namesIn(folder: string): Promise<string[]> {
  return Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
}
