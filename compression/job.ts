import { createHash } from "node:crypto";
import { densePlan } from "../models/block_tensors.ts";
import type { Checkpoint } from "../models/checkpoint.ts";
import type { BlockSize } from "../models/int4.ts";
import { Manifest } from "../models/manifest.ts";
import { variantSize } from "../models/sizes.ts";
import { largestToken } from "../models/vocabulary.ts";
import type { CalibrationData } from "./calibration.ts";
import { partialPathOf } from "./partial_folder.ts";
import type { Recipe } from "./recipe.ts";
import { adapterSize, recoveryMemory } from "./recovery/size.ts";

/** What is to be compressed, how, and where to. */
export interface Job {
  readonly checkpoint: Checkpoint;
  /** The artefact's folder, absolute; it must not exist yet, or be empty. */
  readonly out: string;
  /** The artefact's name in answers and lists. */
  readonly name: string;
  readonly calibration: CalibrationData;
  readonly blockSize: BlockSize;
  readonly recipe: Recipe;
  readonly seed: number;
  readonly threads: number;
}

/**
 * A digest of everything that the result depends on: a run that was cut off is only resumed by the same job.
 *
 * @param checkpointDigest Of the weights; what the configuration makes of them counts as well.
 */
export function jobDigest({ checkpoint, calibration, blockSize, recipe, seed }: Job, checkpointDigest: string): string {
  const hash = createHash("sha256");
  hash.update(JSON.stringify([checkpointDigest, checkpoint.description, blockSize, recipe, seed]));
  for (const part of [...calibration.windows, ...calibration.texts, ...calibration.heldOut]) hash.update(part);
  return hash.digest("hex");
}

/**
 * Checks the whole job before its first long step.
 *
 * @param supportsHadamard Whether there is a Hadamard matrix of an order.
 * @param memory Bytes that are free.
 * @param disk Bytes that are free where the artefact goes, with those that an interrupted run holds there.
 * @throws {RangeError} Naming everything that is in the way.
 */
export async function checkJob(
  { checkpoint, out, name, blockSize, recipe, calibration }: Job,
  { supportsHadamard, memory, disk }: {
    supportsHadamard: (order: number) => boolean;
    memory: number;
    disk: number;
  },
): Promise<void> {
  const { config } = checkpoint.description;
  const problems: string[] = [];
  if (!Manifest.shape.name.safeParse(name).success) {
    problems.push(`the name "${name}" is not 1 to 64 letters, digits, dots, dashes and underscores`);
  }
  if (config.hiddenSize % blockSize !== 0) {
    problems.push(`hidden_size ${config.hiddenSize} is no multiple of the block size ${blockSize}`);
  }
  if (config.headDim % 8 !== 0) problems.push(`head_dim ${config.headDim} is no multiple of 8`);
  if (recipe.hadamard === true && !supportsHadamard(config.hiddenSize)) {
    problems.push(`there is no Hadamard matrix of order ${config.hiddenSize} for the recipe's rotation`);
  }
  const largest = [...calibration.texts, ...calibration.heldOut].reduce(
    (largest, window) => Math.max(largest, largestToken(window)),
    -1,
  );
  if (largest >= config.vocabSize) {
    problems.push(`the calibration text has token ${largest}, the model knows ${config.vocabSize}`);
  }
  const length = calibration.windows[0]!.length;
  if (length > config.maxPositionEmbeddings) {
    problems.push(`the windows have ${length} tokens, the model holds ${config.maxPositionEmbeddings}`);
  }
  const { recovery } = recipe;
  if (recovery.steps > 0 && recovery.sequenceLength > config.maxPositionEmbeddings) {
    problems.push(
      `recovery's sequences have ${recovery.sequenceLength} tokens, the model holds ${config.maxPositionEmbeddings}`,
    );
  }
  const shortest = Math.min(...calibration.texts.map((text) => text.length));
  if (recovery.steps > 0 && recovery.sequenceLength > shortest) {
    problems.push(`recovery's sequences have ${recovery.sequenceLength} tokens, the text ${shortest}`);
  }
  const needed = memoryNeeded(checkpoint, calibration, recipe);
  if (needed > memory) {
    problems.push(`it needs about ${sizeText(needed)} of memory, ${sizeText(memory)} are free`);
  }
  const stored = diskNeeded(checkpoint, calibration, { blockSize, recipe });
  if (stored > disk) {
    problems.push(`it needs about ${sizeText(stored)} of disk, ${sizeText(disk)} are free`);
  }
  const there = await Deno.lstat(out).catch(() => null);
  // The finished folder would take the place of the link, not of what it leads to.
  if (there?.isSymlink) problems.push(`${out} is a link`);
  else if (there !== null && !there.isDirectory) problems.push(`${out} is no folder`);
  else if (there !== null && !await isEmpty(out)) problems.push(`${out} exists and is not empty`);
  const partial = partialPathOf(out);
  if (await isIn(partial, checkpoint.path)) problems.push(`${partial} holds the checkpoint, and would become ${out}`);
  if (problems.length > 0) {
    throw new RangeError(`Cannot compress ${checkpoint.path}:\n  ${problems.join("\n  ")}`);
  }
}

/** Whether a path is that of a folder or of something in it, links followed. */
async function isIn(folder: string, path: string): Promise<boolean> {
  const [outer, inner] = await Promise.all([folder, path].map((path) => Deno.realPath(path).catch(() => null)));
  return outer !== null && inner !== null && `${inner}/`.startsWith(`${outer}/`);
}

async function isEmpty(folder: string): Promise<boolean> {
  for await (const _ of Deno.readDir(folder)) return false;
  return true;
}

/**
 * Reads every weight once: one that is no number spoils all that comes after it, hours later and without a name.
 *
 * @throws {RangeError} Naming every tensor that has one.
 */
export async function checkWeights(checkpoint: Checkpoint, signal?: AbortSignal): Promise<void> {
  const wrong: string[] = [];
  for (const name of checkpoint.tensors.keys()) {
    signal?.throwIfAborted();
    if (!areFinite(await checkpoint.read(name))) wrong.push(name);
  }
  if (wrong.length > 0) {
    throw new RangeError(`Cannot compress ${checkpoint.path}: not all numbers are finite in\n  ${wrong.join("\n  ")}`);
  }
}

/** A loop: of billions of weights, one call for each would take minutes. */
function areFinite(values: Float32Array): boolean {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false;
  return true;
}

/** Bytes at the worst moment, roughly: activations of three networks, a block with its statistics, the embedding twice. */
export function memoryNeeded(checkpoint: Checkpoint, { windows }: CalibrationData, { recovery }: Recipe): number {
  const { hiddenSize, intermediateSize, mamba, vocabSize } = checkpoint.description.config;
  const inner = Math.max(intermediateSize, mamba === undefined ? 0 : mamba.numHeads * mamba.headDim);
  const activations = 4 * windows.length * windows[0]!.length * hiddenSize;
  const statistics = 2 * 4 * inner ** 2 + 3 * 8 * inner ** 2;
  const block = 4 * 3 * hiddenSize * inner;
  const compressing = 3 * activations + statistics + 4 * block + 4 * 4 * vocabSize * hiddenSize;
  return Math.max(compressing, recovery.steps === 0 ? 0 : recoveryMemory(densePlan(checkpoint.description), recovery));
}

/** Bytes that the artefact and what a stopped run keeps will take, roughly. */
export function diskNeeded(
  checkpoint: Checkpoint,
  { windows }: CalibrationData,
  { blockSize, recipe: { recovery } }: Pick<Job, "blockSize" | "recipe">,
): number {
  const { description } = checkpoint;
  const activations = 4 * windows.length * windows[0]!.length * description.config.hiddenSize;
  const plan = densePlan(description);
  const adapters = recovery.steps === 0 ? 0 : adapterSize(plan, recovery.rank);
  // New files are written before the old ones are removed: the streams of three networks, adapters and two means.
  return variantSize(plan, 0, blockSize).bytes + Math.max(6 * activations, 2 * 3 * 4 * adapters) + 4 * adapters;
}

/** In gigabytes, or in megabytes where those would be a fraction. */
function sizeText(bytes: number): string {
  return bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
