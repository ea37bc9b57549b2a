/**
 * What starting the service costs, with our own operators and with stock ones in turn:
 * `deno run --allow-all tests/start_cost.ts --model ARTEFACT`. A first start measures what steps cost, later ones know it.
 * On a machine that does nothing else.
 */

import { fileURLToPath } from "node:url";
import { z } from "zod";
import { parseFlags } from "../commands/flags.ts";
import { randomArtefactFolder } from "../commands/random_artefacts.ts";
import { runCommand } from "../commands/run_command.ts";
import { median } from "../commands/statistics.ts";
import { table } from "../commands/text_table.ts";

const Flags = z.strictObject({
  model: z.string().default(randomArtefactFolder({ shape: "llama-3.2-1b", blockSize: 32 })).describe(
    "Artefact, such as deno task bench makes",
  ),
  rounds: z.int().min(1).max(100).default(3).describe("Starts of each kind that know what steps cost"),
});

/** What `ESPALIER_KERNELS` is for each. */
const OPERATORS = { own: "", stock: "off" } as const;

interface Start {
  /** From starting the process to the first yes of `/readyz`. */
  readonly seconds: number;
  readonly residentBytes: number;
}

await runCommand(async () => {
  const { model, rounds } = parseFlags(Flags, Deno.args, {
    name: "deno run -A tests/start_cost.ts",
    summary: "Measures how soon the service is ready, and the memory that it has then.",
  });
  const { size } = await Deno.stat(`${model}/weights.safetensors`);
  const folder = await Deno.makeTempDir();
  try {
    const first = new Map<string, Start>();
    const later = new Map<string, Start[]>();
    for (let round = 0; round <= rounds; round++) {
      for (const [name, kernels] of Object.entries(OPERATORS)) {
        const start = await measure(model, kernels, `${folder}/${name}`);
        if (round === 0) first.set(name, start);
        else later.set(name, [...later.get(name) ?? [], start]);
      }
    }
    const beyond = ({ residentBytes }: Start) => (residentBytes - size) / 1e6;
    const rows = [...later].map(([name, starts]) => [
      name,
      first.get(name)!.seconds.toFixed(1),
      median(starts.map(({ seconds }) => seconds)).toFixed(1),
      median(starts.map(beyond)).toFixed(0),
    ]);
    console.log(table(["operators", "first ready s", "ready s", "MB beyond the file"], rows));
    console.log(`the weights' file has ${(size / 1e6).toFixed(0)} MB; medians of ${rounds} starts`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

async function measure(model: string, kernels: string, stepTimes: string): Promise<Start> {
  const begun = performance.now();
  const args = ["run", "--v8-flags=--max-semi-space-size=4", "--allow-all", "main.ts", "--port", "0"];
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args, "--model", await Deno.realPath(model), "--step-times", stepTimes],
    cwd: fileURLToPath(new URL("..", import.meta.url)),
    env: { ESPALIER_KERNELS: kernels },
    stdout: "null",
    stderr: "piped",
  }).spawn();
  try {
    const address = await listening(child.stderr);
    while (!(await get(`${address}/readyz`)).ok) await new Promise((resolve) => setTimeout(resolve, 20));
    const seconds = (performance.now() - begun) / 1000;
    const metric = /^process_resident_memory_bytes (\S+)$/m.exec((await get(`${address}/metrics`)).text);
    if (metric === null) throw new Error(`${address}/metrics does not say what memory is resident`);
    return { seconds, residentBytes: Number(metric[1]) };
  } finally {
    child.kill("SIGTERM");
    await child.status;
  }
}

/** Reads on behind the line, so that the service never waits for its log to be read. */
async function listening(stderr: ReadableStream<Uint8Array>): Promise<string> {
  let log = "";
  const reader = stderr.pipeThrough(new TextDecoderStream()).getReader();
  while (true) {
    const { done, value } = await reader.read();
    if (done) throw new Error(`The service ended without listening:\n${log}`);
    log += value;
    const found = /^Listening on (http:\S+)$/m.exec(log);
    if (found === null) continue;
    void (async () => {
      while (!(await reader.read()).done);
    })();
    return found[1]!;
  }
}

async function get(url: string): Promise<{ ok: boolean; text: string }> {
  const response = await fetch(url);
  return { ok: response.ok, text: await response.text() };
}
