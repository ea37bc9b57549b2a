/** Espalier itself, on a random elastic artefact. */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isArtefact, openArtefact } from "../../models/artefact.ts";
import type { BlockSize } from "../../models/int4.ts";
import { hasAttentionBiases, KNOWN_SHAPES, type ShapeName } from "../../models/known_shapes.ts";
import { writeRandomArtefact } from "../../models/random_artefact.ts";
import { type Participant, PrintedSpeeds, run } from "./workload.ts";

/** Which random artefact: of a shape, with blocks of a size, in a folder. */
interface Which {
  readonly folder: string;
  readonly shape: ShapeName;
  readonly blockSize: BlockSize;
}

function artefactFolder({ folder, shape, blockSize }: Which): string {
  return join(folder, shape, `espalier-${blockSize}`);
}

/** Makes the artefact, unless it is there. */
export async function prepareEspalier(which: Which): Promise<void> {
  const path = artefactFolder(which);
  if (await isArtefact(path)) return;
  const { shape, blockSize } = which;
  await writeRandomArtefact(path, {
    config: KNOWN_SHAPES[shape],
    attentionBiases: hasAttentionBiases(shape),
    blockSize,
    seed: 1,
    name: shape,
  });
}

/** Bytes of weights that one token decoded at rate 0 reads; with blocks of 32 those of llama.cpp's model are as many. */
export async function bytesPerToken(which: Which): Promise<number> {
  return (await openArtefact(artefactFolder(which))).levels[0]!.bytesPerToken;
}

/** Espalier with our operators, at one of the artefact's rates. */
export function espalier(which: Which, pruningRate: number): Participant {
  return {
    name: `Espalier, rate ${pruningRate}`,
    async measure(workload) {
      const program = fileURLToPath(new URL("espalier_bench.ts", import.meta.url));
      const args = [artefactFolder(which), String(pruningRate), JSON.stringify(workload)];
      return PrintedSpeeds.parse(JSON.parse(await run(Deno.execPath(), ["run", "--allow-all", program, ...args])));
    },
  };
}
