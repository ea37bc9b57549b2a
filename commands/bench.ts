/** `deno task bench`: what decoding and prefill cost at each rate, against what memory allows. */

import { z } from "zod";
import { openArtefact } from "../models/artefact.ts";
import type { BlockSize } from "../models/int4.ts";
import type { ShapeName } from "../models/known_shapes.ts";
import { openRuntime } from "../onnx/mod.ts";
import { benchDevice } from "./bench/bench_device.ts";
import { measureCpu, openSubject } from "./bench/measure_cpu.ts";
import { formatProfile, profileSteps, withTimeline } from "./bench/step_profile.ts";
import { formatSamples } from "./bench/summary.ts";
import { chooseDevice, DeviceFlag } from "./device.ts";
import { parseFlags } from "./flags.ts";
import { physicalCores } from "./physical_cores.ts";
import { randomArtefact } from "./random_artefacts.ts";
import { runCommand } from "./run_command.ts";

/** Shapes that can be made and run, the last ones where there is memory for it; the others are for size reports. */
const SHAPES = [
  "smollm2-135m",
  "qwen2.5-0.5b",
  "llama-3.2-1b",
  "mamba2-1.3b",
  "llama-3.1-8b",
] as const satisfies readonly ShapeName[];

const Flags = z.strictObject({
  model: z.string().default("artifacts/demo").describe("Artefact"),
  shape: z.enum(SHAPES).optional().describe("Random weights in this model's dimensions instead"),
  blockSize: z.enum(["32", "64", "128"]).default("32").describe("Weights that share a scale, for --shape"),
  rounds: z.int().min(1).max(1000).default(11).describe("Times that everything is run in turn; medians are printed"),
  context: z.int().min(1).max(100_000).default(64).describe("Tokens before the decoded ones"),
  longContext: z.int().min(1).max(100_000).default(4096).describe(
    "Tokens of the context that --context is compared with, for models with Mamba blocks",
  ),
  prefillTokens: z.int().min(1).max(100_000).default(256).describe("Tokens of the prefill"),
  prefillContext: z.int().min(1).max(100_000).optional().describe(
    "Tokens before a further prefill, as where a long prompt goes on",
  ),
  device: DeviceFlag,
  promptTokens: z.int().min(1).max(100_000).default(512).describe("Tokens of a prompt, on a CUDA device"),
  outputTokens: z.int().min(2).max(100_000).default(128).describe("Tokens of an answer, on a CUDA device"),
  rate: z.array(z.string().regex(/^\d*\.?\d+$/, "Expected a pruning rate such as 0.15")).default([]).describe(
    "A pruning rate to measure on a CUDA device; all if none is given",
  ),
  bandwidth: z.number().min(1).optional().describe("GB/s of a CUDA device's memory by its data sheet, to compare with"),
  slots: z.int().min(8).max(64).default(8).describe("Slots of the session, as the service opens it"),
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads that compute"),
  profile: z.boolean().default(false).describe("Prints the time per kind of operator instead"),
  json: z.boolean().default(false).describe("Prints JSON"),
});
type Flags = z.output<typeof Flags>;

await runCommand(async () => {
  const flags = parseFlags(Flags, Deno.args, {
    name: "deno task bench",
    summary: "Measures decode and prefill at each rate, in turn with a loop that reads memory. Ratios are the result.",
  });
  const { shape } = flags;
  const random = shape === undefined ? null : { shape, blockSize: Number(flags.blockSize) as BlockSize };
  if (random === null) await openArtefact(flags.model); // better now than after kernels were compiled
  // A profile waits for every launch: the driver reads this when it starts.
  if (flags.profile && flags.device !== "cpu") Deno.env.set("CUDA_LAUNCH_BLOCKING", "1");
  const chosen = await chooseDevice(flags.device, openRuntime());
  if (chosen.device !== "cuda" && (flags.rate.length > 0 || flags.bandwidth !== undefined)) {
    throw new RangeError("--rate and --bandwidth are for a CUDA device: the CPU's rates are all measured, in turn");
  }
  const folder = random === null ? flags.model : await randomArtefact(random);
  if (chosen.device === "cuda") return await benchDevice(folder, chosen, flags);
  const { operators } = chosen;
  if (flags.profile) return await profile(folder, operators, flags);
  const elastic = await openSubject(folder, operators, flags);
  const plain = random === null
    ? null
    : await openSubject(await randomArtefact({ ...random, plain: true }), operators, flags);
  const stock = operators === null ? null : await openSubject(folder, null, flags);
  const samples = await measureCpu({ elastic, plain, stock }, operators, flags);
  console.log(formatSamples(elastic, samples, { flags, kernels: chosen.kernels }));
  elastic.decoder.close();
  plain?.decoder.close();
  stock?.decoder.close();
});

/**
 * Prints where the time of a step goes, with our own operators, if there are any, and with stock ones. To be told apart our
 * own are nodes here; as one chain, which serves, they take less.
 */
async function profile(folder: string, operators: string | null, flags: Flags): Promise<void> {
  const lowerings = operators === null ? [null] : [operators, null];
  for (const lowering of lowerings) {
    const { times: profile } = await withTimeline(async (prefix) => {
      const { decoder } = await openSubject(folder, lowering, flags, prefix);
      try {
        return await profileSteps(decoder, flags);
      } finally {
        decoder.close();
      }
    });
    const name = lowering === null ? "stock operators" : "own operators, each a node";
    console.log(
      flags.json ? JSON.stringify({ operators: name, ...Object.fromEntries(profile) }) : formatProfile(name, profile),
      "\n",
    );
  }
}
