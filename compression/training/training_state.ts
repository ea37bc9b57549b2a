import type { Floats } from "../../models/floats.ts";
import { RangeFile } from "../../models/range_file.ts";
import { readSafetensorsHeader } from "../../models/safetensors.ts";
import { SafetensorsWriter } from "../../models/safetensors_writer.ts";

/** What a run needs to go on where it was interrupted. */
export interface TrainingState {
  /** Steps done. */
  readonly step: number;
  /** Steps that the learning rate's schedule was made for. */
  readonly steps: number;
  /** Loss on held-out text, in nats per token, of `best`; infinite before the first validation. */
  readonly bestLoss: number;
  /** Flat arrays of equal length: the weights, AdamW's two means, the weights of the lowest held-out loss. */
  readonly arrays: Readonly<Record<"weights" | "mean" | "square" | "best", Floats>>;
}

/**
 * Saves a state in one safetensors file; one that is there is replaced at once or not at all.
 *
 * @param run What the state belongs to: settings and data. A state of another run is not taken up.
 */
export async function saveTrainingState(
  path: string,
  run: string,
  { step, steps, bestLoss, arrays }: TrainingState,
): Promise<void> {
  const entries = Object.entries(arrays).map(([name, { length }]) => ({
    name,
    dtype: "F32" as const,
    shape: [length],
  }));
  const metadata = { run, step: String(step), steps: String(steps), best_loss: String(bestLoss) };
  using writer = await SafetensorsWriter.create(`${path}.part`, entries, metadata);
  for (const [name, data] of Object.entries(arrays)) await writer.write(name, data);
  await writer.finish();
  await Deno.rename(`${path}.part`, path);
}

/**
 * Fills `arrays` from a saved state.
 *
 * @returns The rest of the state; null if there is no such file.
 * @throws {RangeError} If the state belongs to another run.
 */
export async function loadTrainingState(
  path: string,
  run: string,
  arrays: TrainingState["arrays"],
): Promise<Omit<TrainingState, "arrays"> | null> {
  let file: RangeFile;
  try {
    file = await RangeFile.open(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  using opened = file;
  const { tensors, metadata } = await readSafetensorsHeader(opened);
  if (metadata.run !== run) {
    throw new RangeError(`Cannot resume from ${path}: it is of the run ${metadata.run}, and this is ${run}`);
  }
  for (const [name, data] of Object.entries(arrays)) {
    const tensor = tensors.get(name);
    if (tensor === undefined || tensor.bytes !== data.byteLength) {
      throw new RangeError(`Cannot resume from ${path}: "${name}" should have ${data.byteLength} bytes`);
    }
    data.set(new Float32Array((await opened.read(tensor.offset, tensor.bytes)).buffer));
  }
  return { step: Number(metadata.step), steps: Number(metadata.steps), bestLoss: Number(metadata.best_loss) };
}
