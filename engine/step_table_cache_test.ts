import { deepEqual, equal, match } from "node:assert/strict";
import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { join } from "node:path";
import type { StepTable } from "./step_costs.ts";
import { keptStepTable, type StepTableKey } from "./step_table_cache.ts";

const TABLE = { rows: [1, 4], stepMs: [[2, 3]], decodeContextMs: [0.1], prefillContextMs: [0] };

describe("keptStepTable()", () => {
  let folder: string;
  beforeAll(async () => void (folder = await Deno.makeTempDir()));
  afterAll(() => Deno.remove(folder, { recursive: true }));

  async function take(key: StepTableKey, where = join(folder, "tables")) {
    let measured = 0;
    const lines: string[] = [];
    const measure = () => (measured++, Promise.resolve(TABLE));
    const table = await keptStepTable({ folder: where, key, levels: 1, measure, say: (line) => void lines.push(line) });
    deepEqual(table, TABLE);
    return { measured, lines };
  }

  it("measures once per key", async () => {
    equal((await take({ digest: "a", threads: 2 })).measured, 1);
    equal((await take({ digest: "a", threads: 2 })).measured, 0);
    equal((await take({ digest: "a", threads: 1 })).measured, 1);
  });

  it("measures anew what cannot be understood, and says so", async () => {
    await take({ digest: "b" });
    for (const content of ["{", "{}", JSON.stringify({ key: {}, table: { ...TABLE, rows: [4, 1] } })]) {
      for await (const { name } of Deno.readDir(join(folder, "tables"))) {
        await Deno.writeTextFile(join(folder, "tables", name), content);
      }
      const { measured, lines } = await take({ digest: "b" });
      equal(measured, 1);
      match(lines[0]!, /is not understood/);
    }
  });

  it("measures anew where the model has other levels, and says so", async () => {
    const lines: string[] = [];
    const take = (levels: number, table: StepTable) =>
      keptStepTable({
        ...{ folder: join(folder, "levels"), key: { digest: "c" }, levels },
        measure: () => Promise.resolve(table),
        say: (line) => void lines.push(line),
      });
    await take(1, TABLE);
    const wider = { ...TABLE, stepMs: [[2, 3], [1, 2]], decodeContextMs: [0, 0], prefillContextMs: [0, 0] };
    deepEqual(await take(2, wider), wider);
    match(lines.join("\n"), /has 1 levels, the model 2/);
    deepEqual(await take(2, TABLE), wider);
  });

  it("goes on where it cannot write, and says so", async () => {
    await Deno.writeTextFile(join(folder, "file"), "");
    const { measured, lines } = await take({ digest: "c" }, join(folder, "file", "tables"));
    equal(measured, 1);
    match(lines.at(-1)!, /not kept/);
  });

  it("leaves nothing unfinished where it cannot keep a table", async () => {
    const where = join(folder, "taken");
    await take({ digest: "d" }, where);
    const [{ name }] = await Array.fromAsync(Deno.readDir(where)) as [Deno.DirEntry];
    await Deno.remove(join(where, name));
    await Deno.mkdir(join(where, name)); // in the place of the table
    match((await take({ digest: "d" }, where)).lines.at(-1)!, /not kept/);
    deepEqual((await Array.fromAsync(Deno.readDir(where))).map((entry) => entry.name), [name]);
  });
});
