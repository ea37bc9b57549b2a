import type { Floats } from "../../models/floats.ts";
import { readFloats, writeFloats } from "../float_files.ts";
import type { Journal } from "../journal.ts";
import type { RecoveryState } from "./recover.ts";

/** What a recovery that was cut off goes on from; null if none had begun. @throws {UnusableRunError} As `readFloats`. */
export async function readRecovery(folder: string, saved: Journal["recovery"]): Promise<RecoveryState | null> {
  if (saved === null) return null;
  const { divergences, adapters, means: [mean, square] } = saved;
  const read = (file: typeof adapters) => readFloats(folder, file);
  return { divergences, adapters: await read(adapters), mean: await read(mean), square: await read(square) };
}

/** Writes a state into files of its own. @returns What the journal says of them. */
export async function writeRecovery(
  folder: string,
  { divergences, adapters, mean, square }: RecoveryState,
): Promise<NonNullable<Journal["recovery"]>> {
  // A name of its own for every step, so that no journal names a file that is being written.
  const write = (part: string, floats: Floats) => writeFloats(folder, `recovery.${divergences.length}.${part}`, floats);
  return {
    divergences: [...divergences],
    adapters: await write("adapters", adapters),
    means: [await write("mean", mean), await write("square", square)],
  };
}
