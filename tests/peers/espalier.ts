/** Espalier itself, on a random elastic artefact. */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isArtefact, openArtefact } from "../../models/artefact.ts";
import { KNOWN_SHAPES, type ShapeName } from "../../models/known_shapes.ts";
import { writeRandomArtefact } from "../../models/random_artefact.ts";
import { type Participant, PrintedSpeeds, run } from "./workload.ts";

function artefactFolder(folder: string, shape: ShapeName): string {
  return join(folder, shape, "espalier");
}

/** Makes the artefact of a shape, with blocks of 32 as the others have them, unless it is there. */
export async function prepareEspalier(folder: string, shape: ShapeName): Promise<void> {
  const path = artefactFolder(folder, shape);
  if (await isArtefact(path)) return;
  await writeRandomArtefact(path, { config: KNOWN_SHAPES[shape], blockSize: 32, seed: 1, name: shape });
}

/** Bytes of weights that one token decoded at rate 0 reads; those of llama.cpp's model are as many. */
export async function bytesPerToken(folder: string, shape: ShapeName): Promise<number> {
  return (await openArtefact(artefactFolder(folder, shape))).levels[0]!.bytesPerToken;
}

/** Espalier with our operators, at one of the artefact's rates. */
export function espalier(folder: string, shape: ShapeName, pruningRate: number): Participant {
  return {
    name: `Espalier, rate ${pruningRate}`,
    async measure(workload) {
      const program = fileURLToPath(new URL("espalier_bench.ts", import.meta.url));
      const args = [artefactFolder(folder, shape), String(pruningRate), JSON.stringify(workload)];
      return PrintedSpeeds.parse(JSON.parse(await run(Deno.execPath(), ["run", "--allow-all", program, ...args])));
    },
  };
}
