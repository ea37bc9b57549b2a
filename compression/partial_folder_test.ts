import { afterEach, beforeEach, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { bytesHeld, PartialFolder } from "./partial_folder.ts";

describe("PartialFolder", () => {
  let folder: string;
  let out: string;

  beforeEach(async () => {
    folder = await Deno.makeTempDir();
    out = `${folder}/out`;
  });
  afterEach(() => Deno.remove(folder, { recursive: true }));

  for (const isThere of [false, true]) {
    it(`becomes ${isThere ? "a folder that is empty" : "what was not there"}, without a lock in it`, async () => {
      if (isThere) await Deno.mkdir(out);
      using partial = await PartialFolder.open(out);
      deepEqual(await namesIn(folder), isThere ? ["out", "out.partial"] : ["out.partial"]);
      await Deno.writeTextFile(`${partial.path}/a`, "");
      await partial.becomeOut(() => {});
      deepEqual(await namesIn(folder), ["out"]);
      deepEqual(await namesIn(out), ["a"]);
    });
  }

  const foreign: readonly [string, (partial: string) => Promise<void>, RegExp][] = [
    ["a folder that no run made", (partial) => fill(partial, "tokenizer.json"), /is not what a run left$/],
    ["a file", (partial) => Deno.writeTextFile(partial, ""), /is not what a run left$/],
    ["a link to a run's", async (partial) => {
      await fill(`${folder}/elsewhere`, ".lock");
      await Deno.symlink(`${folder}/elsewhere`, partial);
    }, /is not what a run left$/],
    ["an artefact", (partial) => fill(partial, "espalier.json"), /is a whole artefact, to be renamed to .*\/out$/],
  ];
  for (const [what, make, said] of foreign) {
    it(`is refused where there is ${what}, which stays as it was`, async () => {
      await make(`${out}.partial`);
      const before = await Deno.lstat(`${out}.partial`);
      await rejects(PartialFolder.open(out), { name: "RangeError", message: said });
      const { ino, mtime } = await Deno.lstat(`${out}.partial`);
      deepEqual([ino, mtime], [before.ino, before.mtime]);
    });
  }

  for (const name of [".lock", "journal.json"]) {
    it(`takes up a folder that has a run's ${name}, or nothing in it`, async () => {
      await Deno.mkdir(`${out}.partial`);
      (await PartialFolder.open(out))[Symbol.dispose]();
      await Deno.remove(`${out}.partial/.lock`);
      await fill(`${out}.partial`, name, "a");
      using partial = await PartialFolder.open(out);
      await partial.becomeOut(() => {});
      deepEqual(await namesIn(out), ["a"]);
    });
  }

  it("becomes what it shall even if not all can be removed, and says so", async () => {
    using partial = await PartialFolder.open(out);
    await Deno.remove(`${partial.path}/.lock`);
    const said: string[] = [];
    await partial.becomeOut((message) => said.push(message));
    deepEqual(await namesIn(folder), ["out"]);
    deepEqual(said.map((message) => message.split(": ")[0]), [`Left in ${out}, which does not need it`]);
  });

  it("is one run's alone, until that ends", async () => {
    {
      using _first = await PartialFolder.open(out);
      await rejects(PartialFolder.open(out), {
        name: "RangeError",
        message: `Cannot compress to ${out}: another run is writing ${out}.partial`,
      });
    }
    using _second = await PartialFolder.open(out);
  });

  it("is refused at once to a run of another process", async () => {
    using _ours = await PartialFolder.open(out);
    const code = `import { PartialFolder } from ${JSON.stringify(import.meta.resolve("./partial_folder.ts"))};
      await PartialFolder.open(${JSON.stringify(out)}).catch((error) => console.log(error.name));`;
    const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["eval", code] }).output();
    equal(new TextDecoder().decode(stdout), "RangeError\n");
  });

  it("is refused where it could not become what it shall", async () => {
    await Deno.mkdir(`${out}/full`, { recursive: true });
    await rejects(PartialFolder.open(out), { name: "RangeError", message: /^Cannot compress to .*renamed/ });
    deepEqual(await namesIn(out), ["full"]);
    deepEqual(await namesIn(`${out}.partial`), [".lock"]);
  });

  it("says where all is that could not be renamed after all", async () => {
    using partial = await PartialFolder.open(out);
    await Deno.writeTextFile(`${partial.path}/a`, "");
    await Deno.mkdir(`${out}/full`, { recursive: true });
    await rejects(partial.becomeOut(() => {}), { name: "RangeError", message: new RegExp(`lies in ${out}\\.partial`) });
    equal(await Deno.readTextFile(`${out}.partial/a`), "");
  });
});

describe("bytesHeld()", () => {
  it("is what an interrupted run takes on the disk, holes left out", async () => {
    const folder = await Deno.makeTempDir();
    try {
      equal(await bytesHeld(`${folder}/out`), 0);
      await Deno.mkdir(`${folder}/out.partial`);
      equal(await bytesHeld(`${folder}/out`), 0);
      await Deno.writeFile(`${folder}/out.partial/floats`, crypto.getRandomValues(new Uint8Array(65_536)));
      using weights = await Deno.create(`${folder}/out.partial/weights`);
      await weights.truncate(1e9);
      const held = await bytesHeld(`${folder}/out`);
      ok(held >= 65_536 && held < 1e6, `${held} bytes`);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

async function fill(folder: string, ...names: string[]): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  for (const name of names) await Deno.writeTextFile(`${folder}/${name}`, "");
}

async function namesIn(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
}
