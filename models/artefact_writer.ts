import { join } from "node:path";
import { fileDigest, MANIFEST_FILE, planOf, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE } from "./artefact.ts";
import { encodeManifest, type Manifest } from "./manifest.ts";
import { SafetensorsWriter } from "./safetensors_writer.ts";
import { storedTensors } from "./stored_tensors.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";
import { writeWhole } from "./whole_file.ts";

/** A manifest before the files it records are finished. */
export type ManifestDraft = Omit<Manifest, "files" | "format" | "version">;

/**
 * Starts the weights' file of an artefact. Its tensors may come in any order; `finishArtefact` makes the folder one.
 *
 * @param written Tensors that an interrupted run is known to have written, with their checksums, to go on behind them.
 * @throws {RangeError} If the file that it left is damaged.
 */
export async function openWeightsFile(
  folder: string,
  draft: Pick<ManifestDraft, "config" | "layers" | "levels" | "quantization" | "rotatedResidual">,
  written?: ReadonlyMap<string, number>,
): Promise<SafetensorsWriter> {
  const plan = planOf(draft as Manifest);
  const entries = storedTensors(plan, draft.quantization.blockSize);
  const path = join(folder, WEIGHTS_FILE);
  if (written !== undefined) return await SafetensorsWriter.resume(path, entries, written, { format: "espalier" });
  await Deno.mkdir(folder, { recursive: true });
  return await SafetensorsWriter.create(path, entries, { format: "espalier" });
}

/**
 * Writes the tokenizer and, last and under its final name only when it is whole, the manifest: a folder without one is
 * no artefact.
 */
export async function finishArtefact(
  folder: string,
  draft: ManifestDraft,
  tokenizer: TokenizerFiles | null,
): Promise<Manifest> {
  const names = [WEIGHTS_FILE];
  if (tokenizer !== null) {
    await writeWhole(join(folder, TOKENIZER_FILE), JSON.stringify(tokenizer.tokenizerJson));
    await writeWhole(join(folder, TOKENIZER_CONFIG_FILE), JSON.stringify(tokenizer.tokenizerConfig));
    names.push(TOKENIZER_FILE, TOKENIZER_CONFIG_FILE);
  }
  const files: Manifest["files"] = {};
  for (const name of names) {
    const path = join(folder, name);
    files[name] = { bytes: (await Deno.stat(path)).size, sha256: await fileDigest(path) };
  }
  const manifest: Manifest = { format: "espalier", version: 1, ...draft, files };
  await writeWhole(join(folder, MANIFEST_FILE), encodeManifest(manifest));
  return manifest;
}
