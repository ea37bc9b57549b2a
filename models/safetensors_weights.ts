import { basename, join } from "node:path";
import { float32FromBfloat16, float32FromFloat16 } from "./float16.ts";
import { readPythonJsonObject } from "./python_json.ts";
import { RangeFile } from "./range_file.ts";
import { readSafetensorsHeader, type SafetensorsDtype, type SafetensorsTensor } from "./safetensors.ts";
import type { WeightSource } from "./weight_source.ts";
import { z } from "zod";

/** How the bytes of a tensor become float32, for the types that weights are kept in. */
const DECODERS: Partial<Record<SafetensorsDtype, (buffer: ArrayBuffer) => Float32Array<ArrayBuffer>>> = {
  F32: (buffer) => new Float32Array(buffer),
  F16: (buffer) => float32FromFloat16(new Uint16Array(buffer)),
  BF16: (buffer) => float32FromBfloat16(new Uint16Array(buffer)),
};

const Index = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

interface Located extends SafetensorsTensor {
  readonly file: RangeFile;
}

/**
 * Opens `model.safetensors` of a folder, or the files that `model.safetensors.index.json` names.
 *
 * @throws {SyntaxError} If a file is malformed, or the index and the files disagree; the message names all that is wrong.
 * @throws {Deno.errors.NotFound} If the folder has neither.
 */
export async function openSafetensorsWeights(folder: string): Promise<WeightSource> {
  const index = await readIndex(folder);
  const names = index === null ? ["model.safetensors"] : [...new Set(index.values())].sort();
  const files: RangeFile[] = [];
  try {
    const problems: string[] = [];
    const tensors = new Map<string, Located>();
    for (const name of names) {
      try {
        const file = await RangeFile.open(join(folder, name));
        files.push(file);
        const header = await readSafetensorsHeader(file);
        for (const [tensor, place] of header.tensors) {
          if (tensors.has(tensor)) {
            problems.push(`"${tensor}" is in ${basename(tensors.get(tensor)!.file.path)} and in ${name}`);
          }
          tensors.set(tensor, { ...place, file });
        }
      } catch (error) {
        if (error instanceof Deno.errors.NotFound && index !== null) problems.push(`there is no file ${name}`);
        else if (error instanceof SyntaxError) problems.push(error.message);
        else throw error;
      }
    }
    // With a file missing or malformed, what the index says of its tensors would only repeat that.
    if (problems.length === 0 && index !== null) problems.push(...disagreements(index, tensors));
    if (problems.length === 1 && index === null) throw new SyntaxError(problems[0]);
    if (problems.length > 0) throw new SyntaxError(`Cannot read the weights in ${folder}:\n  ${problems.join("\n  ")}`);
    return source(files, tensors);
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

/** The file of every tensor, or `null` where the weights are in one file; that counts where both are there. */
async function readIndex(folder: string): Promise<Map<string, string> | null> {
  const names = (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name);
  if (names.includes("model.safetensors")) return null;
  const path = join(folder, "model.safetensors.index.json");
  let raw: unknown;
  try {
    raw = await readPythonJsonObject(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  const index = Index.safeParse(raw);
  if (!index.success) throw new SyntaxError(`Cannot read ${path}: weight_map must map tensor names to file names`);
  const map = new Map(Object.entries(index.data.weight_map));
  const outside = [...map.values()].filter((name) => basename(name) !== name);
  if (map.size === 0 || outside.length > 0) {
    throw new SyntaxError(
      `Cannot read ${path}: weight_map names ${outside[0] ?? "no file"}; wanted files of this folder`,
    );
  }
  return map;
}

function disagreements(index: ReadonlyMap<string, string>, tensors: ReadonlyMap<string, Located>): string[] {
  const problems: string[] = [];
  for (const [name, file] of index) {
    const found = tensors.get(name);
    if (found === undefined) problems.push(`the index puts "${name}" in ${file}, but it is in no file`);
    else if (basename(found.file.path) !== file) {
      problems.push(`the index puts "${name}" in ${file}, but it is in ${basename(found.file.path)}`);
    }
  }
  for (const name of tensors.keys()) if (!index.has(name)) problems.push(`the index does not mention "${name}"`);
  return problems;
}

function source(files: readonly RangeFile[], tensors: ReadonlyMap<string, Located>): WeightSource {
  return {
    files: files.map(({ path }) => path),
    tensors: new Map([...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, bytes }])),
    refuses(name) {
      const { dtype } = tensors.get(name)!;
      return dtype in DECODERS ? null : `is ${dtype}; wanted one of ${Object.keys(DECODERS).join(", ")}`;
    },
    async read(name) {
      const { file, offset, bytes, dtype } = tensors.get(name)!;
      return DECODERS[dtype]!((await file.read(offset, bytes)).buffer);
    },
    [Symbol.dispose]() {
      for (const file of files) file.close();
    },
  };
}
