/** `deno task compress`: a checkpoint becomes an artefact. */

import { statfs } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { z } from "zod";
import { calibrationData } from "../compression/calibration.ts";
import { compress } from "../compression/compress.ts";
import { supportsHadamard } from "../compression/hadamard.ts";
import { checkJob, type Job } from "../compression/job.ts";
import { bytesHeld } from "../compression/partial_folder.ts";
import { parseRecipe } from "../compression/recipe.ts";
import { openCheckpoint } from "../models/checkpoint.ts";
import type { BlockSize } from "../models/int4.ts";
import { PLAIN_MESSAGES } from "../models/chat_template.ts";
import { threadedChatTemplateOf } from "../models/threaded_chat_template.ts";
import { Tokenizer } from "../models/tokenizer.ts";
import { openRuntime } from "../onnx/mod.ts";
import { formatReport } from "./compress_report.ts";
import { parseFlags } from "./flags.ts";
import { physicalCores } from "./physical_cores.ts";
import { progressBar } from "./progress_bar.ts";
import { isForLackOfRoom, runCommand } from "./run_command.ts";
import { usableMemory } from "./usable_memory.ts";

const Flags = z.strictObject({
  model: z.string().describe("Checkpoint: a Hugging Face folder or a GGUF file"),
  out: z.string().describe("Folder of the artefact; must not exist, or be empty"),
  calibration: z.string().optional().describe(
    "Texts to calibrate with, separated by commas; the last tenth of each is for measuring",
  ),
  samples: z.int().min(1).max(100_000).default(64).describe("Windows of calibration text; several texts take turns"),
  sequenceLength: z.int().min(8).max(32_768).default(512).describe("Tokens of a window"),
  blockSize: z.enum(["32", "64", "128"]).default("32").describe("Weights that share a scale"),
  recipe: z.string().optional().describe("JSON file that changes how it is done; see the README"),
  seed: z.int().min(0).max(2 ** 31 - 1).default(0).describe("Seed of the calibration windows and of random orders"),
  name: z.string().optional().describe("Name of the model in answers; the artefact's folder if not given"),
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads to compute with"),
});

/** Plays of Shakespeare: enough to try things out. Text like that the model will be used for calibrates better. */
const DEFAULT_TEXT = new URL("../artifacts/calibration.txt", import.meta.url);

/** How much work an interruption may cost. */
const SAVE_EVERY_MS = 20_000;

/** The nearest folder above that exists. */
async function existing(folder: string): Promise<string> {
  const found = await Deno.stat(folder).catch(() => null);
  return found === null ? await existing(dirname(folder)) : folder;
}

await runCommand(async () => {
  const flags = parseFlags(Flags, Deno.args, {
    name: "deno task compress",
    summary: "Compresses a checkpoint into one artefact that runs at every pruning rate from 0 to 35 %.",
  });
  const recipe = parseRecipe(flags.recipe === undefined ? {} : await readJson(flags.recipe));
  using checkpoint = await openCheckpoint(flags.model);
  if (checkpoint.tokenizer === null) throw new RangeError(`Cannot compress ${flags.model}: it has no tokenizer`);
  try {
    using template = threadedChatTemplateOf(checkpoint.tokenizer.tokenizerConfig);
    await template?.render(PLAIN_MESSAGES);
  } catch (cause) {
    // What refuses this refuses everybody.
    const reason = `${(cause as Error).message} (without a chat template it could be compressed for prompts alone)`;
    throw new RangeError(`Cannot compress ${flags.model}: ${reason}`, { cause });
  }
  const paths = flags.calibration?.split(",") ?? [DEFAULT_TEXT];
  const tokenizer = new Tokenizer(checkpoint.tokenizer);
  const texts: number[][] = [];
  for (const path of paths) {
    texts.push(tokenizer.encode(await Deno.readTextFile(path), { addSpecialTokens: false }));
  }
  const out = resolve(flags.out);
  const job: Job = {
    checkpoint,
    out,
    name: flags.name ?? basename(out),
    calibration: calibrationData(texts, { samples: flags.samples, length: flags.sequenceLength, seed: flags.seed }),
    blockSize: Number(flags.blockSize) as BlockSize,
    recipe,
    seed: flags.seed,
    threads: flags.threads,
  };
  const { bavail, bsize } = await statfs(await existing(dirname(out)));
  const memory = usableMemory(Deno.systemMemoryInfo().available);
  const disk = bavail * bsize + await bytesHeld(out);
  await checkJob(job, { supportsHadamard, memory, disk });

  const stop = new AbortController();
  const interrupt = () => stop.abort(new RangeError("Stopped. The same command goes on where this one was."));
  Deno.addSignalListener("SIGINT", interrupt);
  Deno.addSignalListener("SIGTERM", interrupt);
  using bar = progressBar("compress");
  const report = await compress(job, {
    runtime: openRuntime(),
    progress: (share, label) => bar.update(share, label),
    say: (message) => console.error(message),
    now: () => performance.now(),
    saveEveryMs: SAVE_EVERY_MS,
    signal: stop.signal,
  }).catch((error) => {
    if (isForLackOfRoom(error)) error.message += "\nOnce there is room, the same command goes on where this was.";
    throw error;
  });
  bar[Symbol.dispose]();
  console.log(formatReport(report));
  console.log(`\n${out} is ready, after ${Math.round(report.seconds)} s.`);
  Deno.exit(0); // the signal listeners would keep the process
});

async function readJson(path: string): Promise<unknown> {
  const text = await Deno.readTextFile(path);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new SyntaxError(`Cannot read ${path}: it is not JSON (${(cause as Error).message})`, { cause });
  }
}
