import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { StepCosts, type StepTable } from "./step_costs.ts";

const milliseconds = z.number().min(0).max(1e9);

/** A kept file: what it was measured with, for people who look into it, and the table. */
const File = z.strictObject({
  key: z.record(z.string(), z.union([z.string(), z.number()])),
  table: z.strictObject({
    rows: z.array(z.int().min(1)),
    stepMs: z.array(z.array(milliseconds.positive())),
    decodeContextMs: z.array(milliseconds),
    prefillContextMs: z.array(milliseconds),
  }),
});

/** All that the times depend on: model, machine, threads, kernels, sizes. */
export type StepTableKey = Readonly<Record<string, string | number>>;

/**
 * Takes the step table of a key from a folder, or measures it and keeps it there.
 *
 * Without the right to write there nothing is kept. A file that cannot be understood, or has another number of levels, is
 * measured anew.
 *
 * @param say Takes a line that says where the table came from and what became of it.
 */
export async function keptStepTable(
  { folder, key, levels, measure, say }: {
    folder: string;
    key: StepTableKey;
    levels: number;
    measure: () => Promise<StepTable>;
    say: (line: string) => void;
  },
): Promise<StepTable> {
  const path = pathOf(folder, key);
  const kept = await read(path, levels, say);
  if (kept !== null) {
    say(`step times: from ${path}`);
    return kept;
  }
  const table = await measure();
  await keepStepTable({ folder, key, table, say, what: "measured" });
  return table;
}

/** Keeps a table for the next start, in place of the one that there is. @param what Was done to it, for the line. */
export async function keepStepTable(
  { folder, key, table, say, what }: {
    folder: string;
    key: StepTableKey;
    table: StepTable;
    say: (line: string) => void;
    what: string;
  },
): Promise<void> {
  const path = pathOf(folder, key);
  const unfinished = `${path}.${Deno.pid}`;
  try {
    await Deno.mkdir(folder, { recursive: true });
    await Deno.writeTextFile(unfinished, JSON.stringify({ key, table }));
    await Deno.rename(unfinished, path);
    say(`step times: ${what}, and kept in ${path}`);
  } catch (error) {
    say(`step times: ${what}, not kept (${(error as Error).message})`);
    await Deno.remove(unfinished).catch(() => {}); // a full disk has taken a part of it
  }
}

function pathOf(folder: string, key: StepTableKey): string {
  return join(folder, `${createHash("sha256").update(JSON.stringify(key)).digest("hex").slice(0, 32)}.json`);
}

async function read(path: string, levels: number, say: (line: string) => void): Promise<StepTable | null> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) say(`step times: ${path} is not read (${(error as Error).message})`);
    return null;
  }
  try {
    const { table } = File.parse(JSON.parse(text));
    if (new StepCosts(table).levels === levels) return table;
    say(`step times: ${path} has ${table.stepMs.length} levels, the model ${levels}`);
    return null;
  } catch {
    say(`step times: ${path} is not understood`);
    return null;
  }
}
