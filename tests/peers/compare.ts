/** Measures Espalier and its peers in turn, and prints one table. */

import { z } from "zod";
import { parseFlags } from "../../commands/flags.ts";
import { physicalCores } from "../../commands/physical_cores.ts";
import { progressBar } from "../../commands/progress_bar.ts";
import { median } from "../../commands/statistics.ts";
import { runCommand } from "../../commands/run_command.ts";
import { table } from "../../commands/text_table.ts";
import { openKernels } from "../../kernels/native_library.ts";
import { ReadLoop } from "../../kernels/read_bandwidth.ts";
import type { BlockSize } from "../../models/int4.ts";
import { bytesPerToken, espalier } from "./espalier.ts";
import { Common } from "./flags.ts";
import { llamaCpp } from "./llama_cpp.ts";
import { onnxruntimeGenai } from "./onnxruntime_genai.ts";
import type { Participant, Speeds, Workload } from "./workload.ts";

const Flags = Common.extend({
  rounds: z.int().min(1).max(1000).default(5).describe("Times that everyone is measured in turn; medians are printed"),
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads that compute, the same for everyone"),
});

const COLUMNS = ["one", "eight", "prefill"] as const satisfies readonly (keyof Speeds)[];

await runCommand(async () => {
  const { shape, blockSize, folder, rounds, threads } = parseFlags(Flags, Deno.args, {
    name: "deno run -A tests/peers/compare.ts",
    summary: "Measures decode and prefill of Espalier and its peers in turn, after tests/peers/prepare.ts.",
  });
  const workload: Workload = { threads, context: 64, steps: 32, prefillTokens: 256, prefills: 5 };
  const ours = { folder, shape, blockSize: Number(blockSize) as BlockSize };
  const participants = [
    espalier(ours, 0),
    espalier(ours, 0.35),
    llamaCpp(folder, shape),
    onnxruntimeGenai(folder, shape),
  ];
  const weightBytes = await bytesPerToken(ours);
  const { samples, readLoop } = await measureInTurn(participants, workload, rounds);
  console.log(
    `${shape}, ${threads} threads, Espalier with blocks of ${blockSize}, medians of ${rounds} rounds; tokens/s, and ` +
      "rate 0 of Espalier against it, by round",
  );
  console.log(format(participants, samples));
  console.log(
    `decode: ${workload.steps} steps behind ${workload.context} tokens; prefill: ${workload.prefillTokens} tokens, ` +
      `the median of ${workload.prefills}`,
  );
  const read = median(readLoop);
  console.log(
    `${threads} threads read ${(read / 1e9).toFixed(1)} GB/s of memory: weights of ${
      (weightBytes / 1e9).toFixed(3)
    } GB ` +
      `come by ${(read / weightBytes).toFixed(1)} times a second`,
  );
});

/** @returns `samples` per participant, in their order, and `readLoop` in bytes per second, with an entry a round each. */
async function measureInTurn(
  participants: readonly Participant[],
  workload: Workload,
  rounds: number,
): Promise<{ samples: Speeds[][]; readLoop: number[] }> {
  const samples: Speeds[][] = participants.map(() => []);
  const readLoop: number[] = [];
  const { kernels } = await openKernels();
  using loop = new ReadLoop(workload.threads, kernels?.path ?? null);
  using bar = progressBar("compare");
  for (let round = 0; round < rounds; round++) {
    readLoop.push(await loop.measure());
    for (const [index, participant] of participants.entries()) {
      bar.update((round + index / participants.length) / rounds, participant.name);
      samples[index]!.push(await participant.measure(workload));
    }
  }
  return { samples, readLoop };
}

function format(participants: readonly Participant[], samples: readonly (readonly Speeds[])[]): string {
  const ours = samples[0]!;
  const rows = participants.map(({ name }, index) => [
    name,
    ...COLUMNS.flatMap((column) => [
      median(samples[index]!.map((speeds) => speeds[column])).toFixed(1),
      median(samples[index]!.map((speeds, round) => ours[round]![column] / speeds[column])).toFixed(2),
    ]),
  ]);
  return table(["", "decode", "×", "decode of 8", "×", "prefill", "×"], rows);
}
