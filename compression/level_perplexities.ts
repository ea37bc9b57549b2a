import { openArtefact } from "../models/artefact.ts";
import { openDecoder } from "../models/decoder.ts";
import { elasticPerplexity } from "../models/perplexity.ts";
import type { Runtime } from "../onnx/mod.ts";
import type { Job } from "./job.ts";

/**
 * Perplexity of every level of an artefact on text that calibration never saw.
 *
 * @param progress Told which share of it is done, 0 to 1.
 */
export async function levelPerplexities(
  runtime: Runtime,
  folder: string,
  { calibration, threads }: Pick<Job, "calibration" | "threads">,
  { progress }: { progress: (share: number) => void },
): Promise<number[]> {
  const artefact = await openArtefact(folder);
  const length = calibration.heldOut[0]!.length;
  using decoder = await openDecoder(runtime, {
    plan: artefact.plan,
    weights: artefact.weights(),
    folder,
    lanes: 1,
    maxTokens: length,
    maxRows: Math.min(length, 256),
    threads,
  });
  const perplexities: number[] = [];
  for (let level = 0; level < artefact.levels.length; level++) {
    const { perplexity } = await elasticPerplexity(decoder, level, calibration.heldOut, {
      progress: (done, total) => progress((level + done / total) / artefact.levels.length),
    });
    perplexities.push(perplexity);
  }
  return perplexities;
}
