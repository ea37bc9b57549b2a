import { createHash } from "node:crypto";
import { join } from "node:path";
import { expectedTensors, type ModelDescription } from "./description.ts";
import { describe } from "./families/mod.ts";
import { openGguf } from "./gguf.ts";
import { readPythonJsonObject } from "./python_json.ts";
import { openSafetensorsWeights } from "./safetensors_weights.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";
import type { StoredTensor, WeightSource } from "./weight_source.ts";

/** An open checkpoint that has been checked whole: what its description expects is there, and can be read. */
export interface Checkpoint extends Disposable {
  /** The folder or file that was opened. */
  readonly path: string;
  readonly description: ModelDescription;
  /** The configuration as found, under Hugging Face's names. */
  readonly rawConfig: Readonly<Record<string, unknown>>;
  /** Every tensor that the description expects, and no other. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** `null` where the checkpoint brings none. */
  readonly tokenizer: TokenizerFiles | null;
  /**
   * Reads one whole tensor, row-major.
   *
   * @throws {RangeError} If the description expects no tensor of that name.
   */
  read(name: string): Promise<Float32Array<ArrayBuffer>>;
  /** SHA-256 of the weight files in the order of their names, in hexadecimal. Reads them once, piece by piece. */
  digest(): Promise<string>;
  /** Closes the weight files. Calling it again does nothing. */
  close(): void;
}

/** A checkpoint whose parts have been read, but not yet held against each other. */
interface Parts {
  readonly rawConfig: Readonly<Record<string, unknown>>;
  readonly description: ModelDescription;
  readonly tokenizer: TokenizerFiles | null;
  readonly weights: WeightSource;
}

/**
 * Opens a checkpoint and checks it whole, without reading the weights themselves.
 *
 * @param path A folder as Hugging Face lays it out (`config.json` with `model.safetensors`, or with shards and their
 * index); a `.gguf` file; or a folder with one `.gguf` file and no `config.json`.
 * @throws {RangeError} If the model is none that we can run, or tensors are missing, misshapen, of a type that we do
 * not read, or there without being expected; one message names all of them.
 * @throws {SyntaxError} If a file is malformed.
 * @throws {Deno.errors.NotFound} If a file that must be there is not.
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const { rawConfig, description, tokenizer, weights } = await openParts(path);
  try {
    return checked(path, { rawConfig, description, tokenizer, weights });
  } catch (error) {
    weights[Symbol.dispose]();
    throw error;
  }
}

async function openParts(path: string): Promise<Parts> {
  const gguf = await findGguf(path);
  if (gguf !== null) {
    const { rawConfig, tokenizer, weights } = await openGguf(gguf);
    try {
      return { rawConfig, description: describe(rawConfig), tokenizer, weights };
    } catch (error) {
      weights[Symbol.dispose]();
      throw error;
    }
  }
  const rawConfig = await readPythonJsonObject(join(path, "config.json"));
  // Refuse a model that we cannot run before looking at its weights.
  const description = describe(
    withGenerationConfig(rawConfig, await readOptional(join(path, "generation_config.json"))),
  );
  const tokenizer = await readTokenizerFiles(path);
  return { rawConfig, description, tokenizer, weights: await openSafetensorsWeights(path) };
}

/** The `.gguf` file that `path` means, or `null` where it means a Hugging Face folder. */
async function findGguf(path: string): Promise<string | null> {
  const { isFile } = await Deno.stat(path);
  if (isFile) {
    if (path.endsWith(".gguf")) return path;
    throw new RangeError(`Cannot open ${path} as a checkpoint: wanted a folder or a .gguf file`);
  }
  const names = (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name);
  if (names.includes("config.json")) return null;
  const ggufs = names.filter((name) => name.endsWith(".gguf")).sort();
  if (ggufs.length === 1) return join(path, ggufs[0]!);
  throw new RangeError(
    `Cannot open ${path} as a checkpoint: it has no config.json, and ` +
      (ggufs.length === 0 ? "no .gguf file" : `several .gguf files (${ggufs.join(", ")}); name one of them`),
  );
}

/** Adds the end tokens of `generation_config.json`: chat models often end a turn by one that `config.json` leaves out. */
function withGenerationConfig(
  rawConfig: Readonly<Record<string, unknown>>,
  generation: Readonly<Record<string, unknown>> | null,
): Record<string, unknown> {
  const ids = [rawConfig.eos_token_id ?? [], generation?.eos_token_id ?? []].flat();
  return { ...rawConfig, eos_token_id: ids };
}

async function readTokenizerFiles(folder: string): Promise<TokenizerFiles | null> {
  const tokenizerJson = await readOptional(join(folder, "tokenizer.json"));
  if (tokenizerJson === null) return null;
  const tokenizerConfig = await readOptional(join(folder, "tokenizer_config.json")) ?? {};
  // Where both are there, transformers takes the file.
  const template = await absentAsNull(Deno.readTextFile(join(folder, "chat_template.jinja")));
  return {
    tokenizerJson,
    tokenizerConfig: template === null ? tokenizerConfig : { ...tokenizerConfig, chat_template: template },
  };
}

function readOptional(path: string): Promise<Record<string, unknown> | null> {
  return absentAsNull(readPythonJsonObject(path));
}

function absentAsNull<T>(reading: Promise<T>): Promise<T | null> {
  return reading.catch((error) => {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  });
}

function checked(path: string, { rawConfig, description, tokenizer, weights }: Parts): Checkpoint {
  const expected = expectedTensors(description);
  const problems: string[] = [];
  const tensors = new Map<string, StoredTensor>();
  for (const [name, shape] of expected) {
    const stored = weights.tensors.get(name);
    if (stored === undefined) {
      problems.push(`"${name}" [${shape.join(", ")}] is missing`);
      continue;
    }
    if (!isSameShape(stored.shape, shape)) {
      problems.push(`"${name}" is [${stored.shape.join(", ")}]; wanted [${shape.join(", ")}]`);
    }
    const refusal = weights.refuses(name);
    if (refusal !== null) problems.push(`"${name}" ${refusal}`);
    tensors.set(name, stored);
  }
  for (const name of weights.tensors.keys()) {
    if (!expected.has(name) && !isHarmless(name, description)) {
      problems.push(`"${name}" is there, but nothing in this model reads it`);
    }
  }
  if (problems.length > 0) throw new RangeError(`Cannot use the checkpoint ${path}:\n  ${problems.join("\n  ")}`);

  return {
    path,
    rawConfig,
    description,
    tokenizer,
    tensors,
    read(name) {
      if (tensors.has(name)) return weights.read(name);
      return Promise.reject(new RangeError(`The checkpoint ${path} has no tensor "${name}" that its model reads`));
    },
    digest: () => digestFiles(weights.files),
    close: () => weights[Symbol.dispose](),
    [Symbol.dispose]: () => weights[Symbol.dispose](),
  };
}

function isSameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}

/** Old checkpoints keep buffers that follow from the configuration, and some a second copy of a tied embedding. */
function isHarmless(name: string, { head }: ModelDescription): boolean {
  return name.endsWith(".rotary_emb.inv_freq") || (head === null && name === "lm_head.weight");
}

async function digestFiles(paths: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const path of paths) {
    const file = await Deno.open(path, { read: true });
    for await (const chunk of file.readable) hash.update(chunk);
  }
  return hash.digest("hex");
}
