/** `deno task export`: an artefact becomes a stock ONNX model. */

import { z } from "zod";
import { openArtefact } from "../models/artefact.ts";
import { exportOnnx } from "../models/export.ts";
import { parseFlags } from "./flags.ts";
import { levelOf } from "./level_of.ts";
import { runCommand } from "./run_command.ts";

const Flags = z.strictObject({
  model: z.string().describe("Artefact"),
  out: z.string().describe("File to write; its weights go to a file of that name with .data behind it"),
  rate: z.number().min(0).max(1).optional().describe("This pruning rate alone; without it the graph is elastic"),
});

await runCommand(async () => {
  const flags = parseFlags(Flags, Deno.args, {
    name: "deno task export",
    summary: "Writes an artefact as an ONNX model of stock operators that any ONNX Runtime can run.",
  });
  const artefact = await openArtefact(flags.model);
  const there = await Deno.stat(flags.out).catch(() => null);
  if (there?.isDirectory) throw new RangeError(`--out: ${flags.out} is a folder, the model is a file`);
  const level = flags.rate === undefined ? {} : { level: levelOf(artefact.levels, flags.rate) };
  await exportOnnx(artefact, flags.out, level);
  console.log(`${flags.out} and ${flags.out}.data are written.`);
});
