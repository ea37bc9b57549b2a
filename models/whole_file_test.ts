import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, rejects } from "node:assert/strict";
import { writeWhole, writeWholes } from "./whole_file.ts";

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

describe("writeWholes()", () => {
  it("says which file there is no room for, as the system does, and leaves none", () =>
    inTempFolder(async (folder) => {
      await Deno.symlink("/dev/full", `${folder}/b.partial`);
      const written = writeWholes([
        [`${folder}/a`, (write) => write(new Uint8Array(5))],
        [`${folder}/b`, (write) => write(new Uint8Array(5))],
      ]);
      await rejects(written, { code: "ENOSPC", message: new RegExp(`^${folder}/b: No space left`) });
      deepEqual(await namesIn(folder), []);
    }));

  it("leaves what is wrong with the content as it is", () =>
    inTempFolder(async (folder) => {
      const written = writeWholes([[`${folder}/a`, async () => void await Deno.stat(`${folder}/b`)]]);
      await rejects(written, { code: "ENOENT", message: /^No such file/ });
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
