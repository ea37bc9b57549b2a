import { join } from "node:path";
import { isArtefact } from "../models/artefact.ts";
import type { BlockSize } from "../models/int4.ts";
import { hasAttentionBiases, KNOWN_SHAPES, type ShapeName } from "../models/known_shapes.ts";
import { writeRandomArtefact } from "../models/random_artefact.ts";

export interface RandomArtefact {
  readonly shape: ShapeName;
  readonly blockSize: BlockSize;
  /** The same model uncut, whose one rate is 0, instead of the elastic one. */
  readonly plain?: boolean;
}

/** Where the artefact of a shape lies, made or not: below the working directory. */
export function randomArtefactFolder({ shape, blockSize, plain = false }: RandomArtefact): string {
  return join("cache", "bench", `${shape}-${blockSize}-${plain ? "plain" : "elastic"}`);
}

/** Makes an artefact of random weights in a shape's dimensions when it is first asked for, and keeps it. */
export async function randomArtefact(wanted: RandomArtefact): Promise<string> {
  const { shape, blockSize, plain = false } = wanted;
  const folder = randomArtefactFolder(wanted);
  if (await isArtefact(folder)) return folder;
  console.error(`Making ${folder}`);
  await writeRandomArtefact(folder, {
    config: KNOWN_SHAPES[shape],
    attentionBiases: hasAttentionBiases(shape),
    blockSize,
    seed: 1,
    name: shape,
    ...(plain && { pruningRates: [0] }),
  });
  return folder;
}
