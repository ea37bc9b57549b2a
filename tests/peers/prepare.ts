/** Fetches and builds all that `compare.ts` measures, each unless it is there: up to half an hour and 10 GB. */

import { join } from "node:path";
import { parseFlags } from "../../commands/flags.ts";
import { runCommand } from "../../commands/run_command.ts";
import { openKernels } from "../../kernels/native_library.ts";
import type { BlockSize } from "../../models/int4.ts";
import { prepareEspalier } from "./espalier.ts";
import { Common } from "./flags.ts";
import { prepareLlamaCpp } from "./llama_cpp.ts";
import { prepareOnnxruntimeGenai } from "./onnxruntime_genai.ts";

await runCommand(async () => {
  const { folder, shape, blockSize } = parseFlags(Common, Deno.args, {
    name: "deno run -A tests/peers/prepare.ts",
    summary: "Fetches and builds the peers, and makes everyone's random model.",
  });
  await Deno.mkdir(join(folder, shape), { recursive: true });
  console.error("Espalier: operators and artefact");
  await openKernels();
  await prepareEspalier({ folder, shape, blockSize: Number(blockSize) as BlockSize });
  console.error("llama.cpp: source, programs and model");
  await prepareLlamaCpp(folder, shape);
  console.error("onnxruntime-genai: packages and model");
  await prepareOnnxruntimeGenai(folder, shape);
});
