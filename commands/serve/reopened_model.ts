import { type Artefact, openArtefact } from "../../models/artefact.ts";
import { messageOf } from "./say.ts";

/** Time between two tries to open a model that broke. */
export const RECOVER_MS = 10_000;

/**
 * Makes what opens a model again after its session broke.
 *
 * @param opened The model that runs.
 * @param open Opens it anew.
 * @param say Takes a line for people.
 * @returns Closes the model that broke, once, whatever comes of it, and opens another; it throws what either threw, and can
 * be called again then.
 */
export function reopening<Model extends { close(): void }>(
  opened: Model,
  open: () => Promise<Model>,
  say: (line: string) => void,
): () => Promise<Model> {
  let last: Model | null = opened;
  return async () => {
    say("Steps failed: opening the model again");
    const broken = last;
    last = null;
    try {
      broken?.close();
      last = await open();
    } catch (error) {
      say(`The model cannot be opened: ${messageOf(error)}; it is tried again in ${RECOVER_MS / 1000} s`);
      throw error;
    }
    say("The model is open again");
    return last;
  };
}

/**
 * Checks an artefact's folder again before it is opened again. What runs was planned for the weights that were there at
 * the start; others, even of the same size, would be read as if they were those.
 *
 * @throws {SyntaxError} If it is no whole artefact any more.
 * @throws {Error} If its weights are others.
 */
export async function checkUnchanged({ folder, digest }: Pick<Artefact, "folder" | "digest">): Promise<void> {
  if ((await openArtefact(folder)).digest === digest) return;
  throw new Error(`other weights have taken the place of those in ${folder}: start the service again to serve them`);
}
