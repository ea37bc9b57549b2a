import { afterEach, beforeEach, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, rejects } from "node:assert/strict";
import { PartialFolder } from "./partial_folder.ts";

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
      await partial.becomeOut();
      deepEqual(await namesIn(folder), ["out"]);
      deepEqual(await namesIn(out), ["a"]);
    });
  }

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
    await rejects(partial.becomeOut(), { name: "RangeError", message: new RegExp(`lies in ${out}\\.partial`) });
    equal(await Deno.readTextFile(`${out}.partial/a`), "");
  });
});

async function namesIn(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
}
