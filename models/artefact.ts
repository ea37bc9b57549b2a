import { createHash } from "node:crypto";
import { join } from "node:path";
import { cacheElementsPerToken, stateBytesPerSequence } from "./caches.ts";
import { rotaryDimOf } from "./description.ts";
import { type Int4Weights, int4Weights, type TensorLocator } from "./graph/weights.ts";
import { pairPlaces } from "./layout.ts";
import { decodeManifest, type Manifest, type ManifestBlock } from "./manifest.ts";
import { type ModelPlan, planModel } from "./plan.ts";
import { RangeFile } from "./range_file.ts";
import { readSafetensorsHeader, type SafetensorsTensor } from "./safetensors.ts";
import { variantSize } from "./sizes.ts";
import { storedTensors } from "./stored_tensors.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";

export const MANIFEST_FILE = "espalier.json";
export const WEIGHTS_FILE = "weights.safetensors";
export const TOKENIZER_FILE = "tokenizer.json";
export const TOKENIZER_CONFIG_FILE = "tokenizer_config.json";

/** ONNX Runtime's attention takes heads of so many components, or of a multiple. */
const HEAD_MULTIPLE = 8;

/** One prepared pruning rate. */
export interface ArtefactLevel {
  readonly pruningRate: number;
  readonly keptParameters: number;
  /** Bytes of stored weights that one decoded token reads. */
  readonly bytesPerToken: number;
  /** Numbers in the keys and values that a sequence adds with every token. */
  readonly cacheElementsPerToken: number;
  /** Bytes of Mamba states that a sequence has from its start, however long it gets. */
  readonly stateBytesPerSequence: number;
  /** On the text that `compress` was given to measure with; null if it was given none. */
  readonly perplexity: number | null;
}

/** An artefact that has been checked whole, ready to be opened by `openDecoder`. */
export interface Artefact {
  readonly folder: string;
  readonly name: string;
  readonly manifest: Manifest;
  readonly plan: ModelPlan;
  readonly levels: readonly ArtefactLevel[];
  readonly blockSize: number;
  /** Size of the weights' file. */
  readonly weightBytes: number;
  readonly tokenizer: TokenizerFiles | null;
  /** SHA-256 of the weights' file. */
  readonly digest: string;
  /** How its tensors enter a graph. `accuracy` 0 computes in float32, for tests of exactness. */
  weights(options?: { accuracy?: 0 | 4 }): Int4Weights;
  /** Where a tensor lies in the weights' file. */
  readonly locate: TensorLocator;
}

/**
 * Opens an artefact and checks all of it before anything is mapped: the manifest and its checksum, every file's size
 * and digest, every tensor's place, type and shape, the order of the rates, the permutations, the scales, norms and biases.
 *
 * @throws {SyntaxError} If the folder is no artefact or a part of it is wrong; the message says what.
 */
export async function openArtefact(folder: string): Promise<Artefact> {
  const manifest = decodeManifest(await readManifest(folder));
  const plan = planOf(manifest);
  const { blockSize } = manifest.quantization;
  await checkFiles(folder, manifest);
  const tensors = await checkTensors(join(folder, WEIGHTS_FILE), plan, blockSize);

  const locate: TensorLocator = (name) => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new RangeError(`Cannot find tensor "${name}" in the artefact`);
    return { file: WEIGHTS_FILE, offset: tensor.offset, length: tensor.bytes };
  };
  const heads = { rotaryDim: rotaryDimOf(manifest.config), headDim: manifest.config.headDim };
  const pairs = new Map(
    plan.layers.flat().map((block, index) => {
      const stored = manifest.layers.flat()[index]!;
      return [block.name, stored.kind === "attention" ? stored.pairs.map((head) => pairPlaces(heads, head)) : []];
    }),
  );
  return {
    folder,
    name: manifest.name,
    manifest,
    plan,
    levels: manifest.levels.map(({ pruningRate, perplexity }, level) => {
      const { parameters, bytesPerToken } = variantSize(plan, level, blockSize);
      return {
        pruningRate,
        keptParameters: parameters,
        bytesPerToken,
        cacheElementsPerToken: cacheElementsPerToken(plan, level),
        stateBytesPerSequence: stateBytesPerSequence(plan, level),
        perplexity,
      };
    }),
    blockSize,
    weightBytes: manifest.files[WEIGHTS_FILE]!.bytes,
    tokenizer: await readTokenizer(folder, manifest),
    digest: manifest.files[WEIGHTS_FILE]!.sha256,
    weights: ({ accuracy = 4 } = {}) =>
      int4Weights({
        blockSize,
        file: { file: WEIGHTS_FILE, offset: 0, length: manifest.files[WEIGHTS_FILE]!.bytes },
        locate,
        pairsOf: ({ name, widths }) => pairs.get(name)!.flatMap((head) => head.slice(0, widths[0]! / 2)),
        accuracy,
      }),
    locate,
  };
}

/** Whether a path is a folder with a manifest, whatever that says. */
export async function isArtefact(path: string): Promise<boolean> {
  return (await Deno.stat(join(path, MANIFEST_FILE)).catch(() => null)) !== null;
}

/** SHA-256 of a file in hexadecimal, read piece by piece. */
export async function fileDigest(path: string): Promise<string> {
  const hash = createHash("sha256");
  using file = await Deno.open(path, { read: true });
  const piece = new Uint8Array(1 << 22);
  for (let count; (count = await file.read(piece)) !== null;) hash.update(piece.subarray(0, count));
  return hash.digest("hex");
}

async function readManifest(folder: string): Promise<string> {
  const path = join(folder, MANIFEST_FILE);
  const cannot = `Cannot open ${folder} as an artefact`;
  const info = await Deno.lstat(path).catch(() => null);
  if (info !== null && !info.isFile) throw new SyntaxError(`${cannot}: ${MANIFEST_FILE} is not a plain file`);
  try {
    return await Deno.readTextFile(path);
  } catch (cause) {
    throw new SyntaxError(`${cannot}: it has no readable ${MANIFEST_FILE}`, { cause });
  }
}

/**
 * The plan that a manifest stands for.
 *
 * @throws {SyntaxError} If its config, rates, widths or permutations contradict each other.
 */
export function planOf(manifest: Manifest): ModelPlan {
  const { config, layers, levels, rotatedResidual } = manifest;
  const problems = configProblems(config);
  if (layers.length !== config.numHiddenLayers) {
    problems.push(`layers: ${layers.length} are listed, the model has ${config.numHiddenLayers}`);
  }
  if (levels[0]!.pruningRate !== 0) problems.push(`levels: the first rate is ${levels[0]!.pruningRate}, not 0`);
  levels.forEach(({ pruningRate }, level) => {
    if (level > 0 && pruningRate <= levels[level - 1]!.pruningRate) {
      problems.push(`levels: rate ${pruningRate} comes after ${levels[level - 1]!.pruningRate}`);
    }
  });
  layers.forEach((blocks, layer) => {
    // Tensors are named by layer and kind, so that a second block would read those of the first.
    const kinds = blocks.map(({ kind }) => kind);
    if (new Set(kinds).size < kinds.length) {
      problems.push(`layers.${layer}: a kind of block twice (${kinds.join(", ")})`);
    }
    blocks.forEach((block, index) => {
      const where = `layers.${layer}.${index}`;
      if (block.widths.length !== levels.length) {
        problems.push(`${where}.widths: ${block.widths.length} for ${levels.length} levels`);
      }
      problems.push(...blockProblems(config, block).map((problem) => `${where}.${problem}`));
    });
  });
  if (problems.length > 0) throw new SyntaxError(`Cannot read ${MANIFEST_FILE}:\n  ${problems.join("\n  ")}`);
  try {
    return planModel(config, layers, { headRotation: rotatedResidual && config.tieWordEmbeddings });
  } catch (cause) {
    throw new SyntaxError(`Cannot read ${MANIFEST_FILE}: ${(cause as Error).message}`, { cause });
  }
}

/** What is wrong with the widths and orders of a block. */
function blockProblems(config: Manifest["config"], block: ManifestBlock): string[] {
  const { headDim, numKeyValueHeads, intermediateSize, mamba } = config;
  const problems: string[] = [];
  const orders = (field: string, rows: readonly (readonly number[])[], count: number, length: number, first = 0) => {
    if (rows.length !== count) problems.push(`${field}: ${rows.length} heads of ${count}`);
    rows.forEach((row, head) => {
      if (!isPermutation(row.map((value) => value - first), length)) problems.push(`${field}.${head}: no permutation`);
    });
  };
  switch (block.kind) {
    case "attention": {
      if (headDim === 0) return ["kind: the configuration has no attention heads"];
      for (const width of block.widths) {
        if (width % HEAD_MULTIPLE !== 0) problems.push(`widths: ${width} is no multiple of ${HEAD_MULTIPLE}`);
      }
      const rotaryDim = rotaryDimOf(config);
      orders("pairs", block.pairs, numKeyValueHeads, rotaryDim / 2);
      if (rotaryDim < headDim) orders("passed", block.passed ?? [], numKeyValueHeads, headDim - rotaryDim, rotaryDim);
      break;
    }
    case "gatedMlp":
    case "mlp":
      if (!isPermutation(block.channels, intermediateSize)) problems.push("channels: no permutation");
      break;
    case "mamba":
      if (mamba === undefined) return ["kind: the configuration has no Mamba heads"];
      if (block.stateWidths.length !== block.widths.length) {
        problems.push(`stateWidths: ${block.stateWidths.length} for ${block.widths.length} widths`);
      }
      orders("channels", block.channels, mamba.numHeads, mamba.headDim);
      orders("states", block.states, mamba.numGroups, mamba.stateSize);
      break;
    default:
      block satisfies never;
  }
  return problems;
}

function configProblems(config: Manifest["config"]): string[] {
  const { headDim, numAttentionHeads, numKeyValueHeads, mamba, vocabSize, bosTokenId, eosTokenIds } = config;
  const problems: string[] = [];
  if (headDim % HEAD_MULTIPLE !== 0) problems.push(`config.headDim: ${headDim} is no multiple of ${HEAD_MULTIPLE}`);
  if (numAttentionHeads > 0 && numAttentionHeads % numKeyValueHeads !== 0) {
    problems.push(`config.numKeyValueHeads: ${numKeyValueHeads} does not divide ${numAttentionHeads} heads`);
  }
  const rotaryDim = rotaryDimOf(config);
  if (![0, headDim / 2, headDim].includes(rotaryDim)) {
    problems.push(`config.rope.rotaryDim: ${rotaryDim} of ${headDim}; wanted all, half or none`);
  }
  if (mamba !== undefined && mamba.numHeads % mamba.numGroups !== 0) {
    problems.push(`config.mamba.numGroups: ${mamba.numGroups} does not divide ${mamba.numHeads} heads`);
  }
  const foreign = (field: string, id: number) => {
    if (id >= vocabSize) problems.push(`config.${field}: ${id} is not in the vocabulary of ${vocabSize}`);
  };
  if (bosTokenId !== null) foreign("bosTokenId", bosTokenId);
  for (const id of eosTokenIds) foreign("eosTokenIds", id);
  return problems;
}

function isPermutation(values: readonly number[], length: number): boolean {
  return values.length === length && new Set(values).size === length &&
    values.every((value) => value >= 0 && value < length);
}

/** Sizes, digests, and that no file is a link out of the folder. */
async function checkFiles(folder: string, { files }: Manifest): Promise<void> {
  const known = [WEIGHTS_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE];
  const problems = Object.keys(files).filter((name) => !known.includes(name)).map((name) =>
    `${name} has no meaning here`
  );
  if (files[WEIGHTS_FILE] === undefined) problems.push(`${WEIGHTS_FILE} is not listed`);
  for (const name of known) {
    const record = files[name];
    if (record === undefined) continue;
    const path = join(folder, name);
    const info = await Deno.lstat(path).catch(() => null);
    if (info === null) problems.push(`${name} is missing`);
    else if (!info.isFile) problems.push(`${name} is not a plain file`);
    else if (info.size !== record.bytes) problems.push(`${name} has ${info.size} bytes, ${record.bytes} are recorded`);
    else if (await fileDigest(path) !== record.sha256) {
      problems.push(`${name} was changed: its SHA-256 is not the recorded one`);
    }
  }
  if (problems.length > 0) throw new SyntaxError(`Cannot open ${folder} as an artefact:\n  ${problems.join("\n  ")}`);
}

async function checkTensors(
  path: string,
  plan: ModelPlan,
  blockSize: number,
): Promise<ReadonlyMap<string, SafetensorsTensor>> {
  using file = await RangeFile.open(path);
  const { tensors } = await readSafetensorsHeader(file);
  const expected = storedTensors(plan, blockSize);
  const problems: string[] = [];
  for (const { name, dtype, shape } of expected) {
    const found = tensors.get(name);
    if (found === undefined) problems.push(`"${name}" is missing`);
    else if (found.dtype !== dtype || `${found.shape}` !== `${shape}`) {
      problems.push(`"${name}" is ${found.dtype} [${found.shape}], wanted ${dtype} [${shape}]`);
    } else if (found.offset % 64 !== 0) problems.push(`"${name}" starts at byte ${found.offset}, no multiple of 64`);
    else if (dtype !== "U8" && !await allFinite(file, found)) {
      problems.push(`"${name}" holds a number that is not finite`);
    }
  }
  const names = new Set(expected.map(({ name }) => name));
  for (const name of tensors.keys()) if (!names.has(name)) problems.push(`"${name}" is not a tensor of this model`);
  if (problems.length > 0) throw new SyntaxError(`Cannot open ${path}:\n  ${problems.join("\n  ")}`);
  return tensors;
}

/** A float with all exponent bits set is infinite or not a number. */
async function allFinite(file: RangeFile, { dtype, offset, bytes }: SafetensorsTensor): Promise<boolean> {
  const { buffer } = await file.read(offset, bytes);
  const [bits, exponent] = dtype === "F16" ? [new Uint16Array(buffer), 0x7c00] : [new Int32Array(buffer), 0x7f800000];
  return bits.every((pattern: number) => (pattern & exponent) !== exponent);
}

async function readTokenizer(folder: string, { files }: Manifest): Promise<TokenizerFiles | null> {
  if (files[TOKENIZER_FILE] === undefined) return null;
  const json = async (name: string) => readObject(join(folder, name), await Deno.readTextFile(join(folder, name)));
  return {
    tokenizerJson: await json(TOKENIZER_FILE),
    tokenizerConfig: files[TOKENIZER_CONFIG_FILE] === undefined ? {} : await json(TOKENIZER_CONFIG_FILE),
  };
}

function readObject(path: string, text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SyntaxError(`${path} is not JSON (${(cause as Error).message})`, { cause });
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new SyntaxError(`${path} is not a JSON object`);
  }
  return value as Record<string, unknown>;
}
