import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { calibrationData } from "../compression/calibration.ts";
import { compress } from "../compression/compress.ts";
import type { CompressContext } from "../compression/compress_context.ts";
import type { Job } from "../compression/job.ts";
import { parseRecipe } from "../compression/recipe.ts";
import { openArtefact, WEIGHTS_FILE } from "../models/artefact.ts";
import { type Checkpoint, openCheckpoint } from "../models/checkpoint.ts";
import { RangeFile } from "../models/range_file.ts";
import { readSafetensorsHeader } from "../models/safetensors.ts";
import { openRuntime } from "../onnx/mod.ts";
import { writeTinyCheckpoint } from "./support/tiny_checkpoint.ts";
import { TINY_LLAMA } from "./support/tiny_models.ts";

const TEXT = Int32Array.from({ length: 3000 }, (_, i) => (i * 31 + Math.floor(i / 7) * 17) % 95);

const CALIBRATION = { samples: 6, length: 48, seed: 1 };

const RECOVERED = { recipe: parseRecipe({ recovery: { steps: 5, sequences: 2, sequenceLength: 16, rank: 2 } }) };

describe("compress(), stopped half way,", () => {
  let folder: string;
  let checkpoint: Checkpoint;
  let digest: string;
  let recoveredDigest: string;
  let count = 0;

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    await writeTinyCheckpoint(`${folder}/checkpoint`, TINY_LLAMA, 11);
    checkpoint = await openCheckpoint(`${folder}/checkpoint`);
    await compress(jobOf(`${folder}/whole`), context());
    ({ digest } = await openArtefact(`${folder}/whole`));
    await compress({ ...jobOf(`${folder}/recovered`), ...RECOVERED }, context());
    ({ digest: recoveredDigest } = await openArtefact(`${folder}/recovered`));
  });
  afterAll(async () => {
    checkpoint.close();
    await Deno.remove(folder, { recursive: true });
  });

  it("keeps numbers by the square of a width out of the journal's text", async () => {
    const { out } = await stopped("quantization");
    const journal = JSON.parse(await Deno.readTextFile(`${out}.partial/journal.json`));
    // Heads of 32 and a stream of 64: the squares are 1024 and 4096.
    equal(longestList(journal), TINY_LLAMA.intermediateSize);
  });

  for (const phase of ["statistics", "quantization"] as const) {
    it(`goes on in the ${phase} from files that are as they were, and says nothing`, async () => {
      const job = await stopped(phase);
      const { said, statistics } = await goneOn(job);
      deepEqual(said, []);
      equal(statistics, phase === "statistics" ? 2 : 0);
    });
  }

  for (const phase of ["statistics", "recovery", "quantization"] as const) {
    it(`goes on in the ${phase} of a job with recovery`, async () => {
      const { said, steps } = await goneOn(await stopped(phase, RECOVERED), { wanted: recoveredDigest });
      deepEqual(said, []);
      // Three of five steps were done; the two layers are run at the end of it.
      equal(steps, { statistics: 5 + 2, recovery: 2 + 2, quantization: 0 }[phase]);
    });
  }

  it("starts the recovery anew, and says so, with a bit of what was learnt flipped", async () => {
    for (const [phase, part] of [["recovery", "mean"], ["quantization", "adapters"]] as const) {
      const job = await stopped(phase, RECOVERED);
      const name = (await namesIn(`${job.out}.partial`)).find((name) => name.endsWith(`.${part}`))!;
      await flipBit(`${job.out}.partial/${name}`);
      const { said, statistics } = await goneOn(job, { wanted: recoveredDigest });
      equal(statistics, 4);
      match(said.join(), new RegExp(`^Starting anew: in ${job.out}.partial, ${name} is not as it was written$`));
    }
  });

  const damages: readonly [string, "statistics" | "quantization", RegExp, (path: string) => Promise<void>][] = [
    ["a bit of a stream flipped", "statistics", /^hidden\..*\.reference$/, flipBit],
    ["a bit of a stream flipped", "quantization", /^hidden\..*\.hidden$/, flipBit],
    ["a byte of a stream missing", "quantization", /^hidden\..*\.reference$/, cutByte],
    ["a stream missing", "quantization", /^hidden\..*\.reference$/, (path) => Deno.remove(path)],
    ["a bit of an arrangement flipped", "quantization", /^arrangement\.0\.0$/, flipBit],
    ["a bit of the journal flipped", "quantization", /^journal\.json$/, flipBit],
    ["an empty journal", "quantization", /^journal\.json$/, (path) => Deno.truncate(path)],
  ];
  for (const [what, phase, pattern, damage] of damages) {
    it(`starts the ${phase} anew, and says so, with ${what}`, async () => {
      const job = await stopped(phase);
      const name = (await namesIn(`${job.out}.partial`)).find((name) => pattern.test(name))!;
      await damage(`${job.out}.partial/${name}`);
      const { said, statistics } = await goneOn(job);
      equal(statistics, 4);
      match(
        said.join(),
        new RegExp(`^Starting anew: in ${job.out}.partial, ${name} is (missing|not as it was written)$`),
      );
    });
  }

  it("starts anew where a tensor that it wrote is not as it was", async () => {
    for (const damage of [flipTensorBit, (path: string) => Deno.remove(path)]) {
      const job = await stopped("quantization");
      await damage(`${job.out}.partial/${WEIGHTS_FILE}`);
      const { said, statistics } = await goneOn(job);
      equal(statistics, 4);
      match(said.join(), /^Starting anew: .*weights\.safetensors/);
    }
  });

  it("starts anew for another job, or for another reading of the same weights", async () => {
    await writeTinyCheckpoint(`${folder}/other`, { ...TINY_LLAMA, rope: { theta: 500, scaling: null } }, 11);
    using other = await openCheckpoint(`${folder}/other`);
    equal(await other.digest(), await checkpoint.digest());
    for (const change of [{ recipe: parseRecipe({ order: "magnitude" }) }, { checkpoint: other }]) {
      const { said, statistics } = await goneOn({ ...await stopped("quantization"), ...change }, { same: false });
      equal(statistics, 4);
      match(said.join(), /^Starting anew: .*journal\.json is of another job$/);
    }
  });

  const endings: readonly [at: string, breaks: string][] = [
    ["it would remove its lock", 'Deno.remove = die((path) => path.endsWith("/.lock"), Deno.remove);'],
    ["it would remove its journal", 'Deno.remove = die((path) => path.endsWith("/journal.json"), Deno.remove);'],
  ];
  for (const [at, breaks] of endings) {
    it(`killed as ${at}, leaves only what the same job makes the artefact of, and nothing is computed again`, async () => {
      const job = jobOf(`${folder}/out-${count++}`);
      await killed(job.out, breaks);
      equal(await Deno.stat(job.out).catch(() => null), null);
      deepEqual((await namesIn(`${job.out}.partial`)).filter((name) => /^(hidden|arrangement)/.test(name)), []);
      const { said, progress } = await goneOn(job);
      deepEqual([said, progress], [[], 0]);
    });
  }

  it("killed as it would be renamed, is an artefact, and the same job says so", async () => {
    const job = jobOf(`${folder}/out-${count++}`);
    await killed(job.out, `Deno.rename = die((_, to) => to === ${JSON.stringify(job.out)}, Deno.rename);`);
    equal((await openArtefact(`${job.out}.partial`)).digest, digest);
    deepEqual((await namesIn(`${job.out}.partial`)).sort(), (await namesIn(`${folder}/whole`)).sort());
    await rejects(compress(job, context()), { name: "RangeError", message: /is a whole artefact, to be renamed to/ });
  });

  it("starts anew where it was finished and its weights are damaged", async () => {
    const job = jobOf(`${folder}/out-${count++}`);
    await killed(job.out, endings[0]![1]);
    await flipTensorBit(`${job.out}.partial/${WEIGHTS_FILE}`);
    const { said, statistics } = await goneOn(job);
    equal(statistics, 4);
    match(said.join(), /^Starting anew: .*weights\.safetensors/);
  });

  /** Runs a job in a process that ends by force at one call. @param breaks Statement that puts \`die\` before it. */
  async function killed(out: string, breaks: string): Promise<void> {
    const here = (module: string) => JSON.stringify(import.meta.resolve(module));
    const code = `
      import { calibrationData } from ${here("../compression/calibration.ts")};
      import { compress } from ${here("../compression/compress.ts")};
      import { openCheckpoint } from ${here("../models/checkpoint.ts")};
      import { openRuntime } from ${here("../onnx/mod.ts")};
      const { text, calibration, ...job } = JSON.parse(Deno.args[0]);
      const die = (when, call) => (...args) => when(...args) ? Deno.kill(Deno.pid, "SIGKILL") : call(...args);
      let isOver = false;
      const progress = (share) => {
        if (isOver || share < 0.9) return;
        isOver = true;
        ${breaks}
      };
      const checkpoint = await openCheckpoint(job.checkpoint);
      await compress(
        { ...job, checkpoint, calibration: calibrationData([Int32Array.from(text)], calibration) },
        { runtime: openRuntime(), progress, say: () => {}, now: () => performance.now(), saveEveryMs: 0 },
      );`;
    const job = { ...jobOf(out), checkpoint: checkpoint.path, text: [...TEXT], calibration: CALIBRATION };
    const { signal, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", code, JSON.stringify(job)],
      cwd: fileURLToPath(new URL("..", import.meta.url)),
    }).output();
    equal(signal, "SIGKILL", new TextDecoder().decode(stderr));
  }

  /** A job of which the first layer of a phase, or three steps of recovery, are done and saved. */
  async function stopped(
    phase: "statistics" | "recovery" | "quantization",
    change: Partial<Job> = {},
  ): Promise<Job> {
    const job = { ...jobOf(`${folder}/out-${count++}`), ...change };
    const stop = new AbortController();
    let steps = 0;
    const progress: CompressContext["progress"] = (_, label) => {
      if (label === phase && ++steps === 3) stop.abort(new Error("pulled the plug"));
    };
    await rejects(compress(job, { ...context(), signal: stop.signal, progress }), /pulled the plug/);
    return job;
  }

  /** Runs a job to its end. @param same The artefact is that of a run that was never stopped, of the digest `wanted`. */
  async function goneOn(job: Job, { same = true, wanted = digest } = {}) {
    const said: string[] = [];
    let [statistics, steps, progress] = [0, 0, 0];
    await compress(job, {
      ...context(),
      say: (message) => said.push(message),
      progress: (_, label) => {
        progress++;
        if (label === "statistics") statistics++;
        if (label === "recovery") steps++;
      },
    });
    equal((await openArtefact(job.out)).digest === wanted, same);
    deepEqual((await namesIn(job.out)).sort(), (await namesIn(`${folder}/whole`)).sort());
    return { said, statistics, steps, progress };
  }

  function jobOf(out: string): Job {
    return {
      checkpoint,
      out,
      name: "tiny",
      calibration: calibrationData([TEXT], CALIBRATION),
      blockSize: 32,
      recipe: parseRecipe({}),
      seed: 5,
      threads: 1,
    };
  }
});

function context(): CompressContext {
  return { runtime: openRuntime(), progress: () => {}, say: () => {}, now: () => performance.now(), saveEveryMs: 0 };
}

function namesIn(folder: string): Promise<string[]> {
  return Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
}

function longestList(value: unknown): number {
  if (value === null || typeof value !== "object") return 0;
  return Math.max(Array.isArray(value) ? value.length : 0, ...Object.values(value).map(longestList));
}

async function cutByte(path: string): Promise<void> {
  await Deno.truncate(path, (await Deno.stat(path)).size - 1);
}

async function flipBit(path: string): Promise<void> {
  const bytes = await Deno.readFile(path);
  bytes[bytes.length >> 1]! ^= 1;
  await Deno.writeFile(path, bytes);
}

/** Flips a bit of the embedding, which is the first that is written. */
async function flipTensorBit(path: string): Promise<void> {
  let offset: number;
  {
    using file = await RangeFile.open(path);
    ({ offset } = (await readSafetensorsHeader(file)).tensors.get("embedding.codes")!);
  }
  const bytes = await Deno.readFile(path);
  bytes[offset + 5]! ^= 1;
  await Deno.writeFile(path, bytes);
}
