import { deepEqual, equal, rejects } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { openArtefact } from "../../models/artefact.ts";
import { writeRandomArtefact } from "../../models/random_artefact.ts";
import { TINY_LLAMA } from "../../tests/support/tiny_models.ts";
import { checkUnchanged, reopening } from "./reopened_model.ts";

/** A model that notes when it is closed, and cannot be closed if told so. */
class Closing {
  closed = 0;

  constructor(readonly problem: string | null = null) {}

  close(): void {
    this.closed++;
    if (this.problem !== null) throw new Error(this.problem);
  }
}

describe("reopening()", () => {
  it("closes what broke before it opens another, each time the last one", async () => {
    const models = [new Closing(), new Closing(), new Closing()];
    let opened = 0;
    const said: string[] = [];
    const reopen = reopening(models[0]!, () => {
      equal(models[opened]!.closed, 1);
      return Promise.resolve(models[++opened]!);
    }, (line) => void said.push(line));
    equal(await reopen(), models[1]);
    equal(await reopen(), models[2]);
    deepEqual(models.map(({ closed }) => closed), [1, 1, 0]);
    deepEqual(said.slice(0, 2), ["Steps failed: opening the model again", "The model is open again"]);
  });

  it("closes what broke once, however often it cannot open another", async () => {
    const [broken, next] = [new Closing(), new Closing()];
    const problems = ["no memory", "no file"];
    const said: string[] = [];
    const reopen = reopening(broken, () => {
      const problem = problems.shift();
      return problem === undefined ? Promise.resolve(next) : Promise.reject(new Error(problem));
    }, (line) => void said.push(line));
    await rejects(reopen(), /no memory/);
    await rejects(reopen(), /no file/);
    equal(await reopen(), next);
    deepEqual([broken.closed, next.closed], [1, 0]);
    equal(said[1], "The model cannot be opened: no memory; it is tried again in 10 s");
  });

  it("opens another the next time if what broke cannot be closed", async () => {
    const [broken, next] = [new Closing("stuck"), new Closing()];
    const reopen = reopening(broken, () => Promise.resolve(next), () => {});
    await rejects(reopen(), /stuck/);
    equal(await reopen(), next);
    equal(broken.closed, 1);
  });
});

describe("checkUnchanged()", () => {
  it("refuses a folder whose weights are others, or no more there", async () => {
    const folder = await Deno.makeTempDir();
    const write = (seed: number) => writeRandomArtefact(folder, { config: TINY_LLAMA, blockSize: 32, seed });
    await write(1);
    const artefact = await openArtefact(folder);
    await checkUnchanged(artefact);
    await Deno.remove(folder, { recursive: true });
    await write(2);
    await rejects(
      checkUnchanged(artefact),
      /other weights have taken the place of those in .*: start the service again/,
    );
    await Deno.remove(folder, { recursive: true });
    await rejects(checkUnchanged(artefact), { name: "SyntaxError" });
  });
});
