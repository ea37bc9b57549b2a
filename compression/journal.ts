import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { writeWhole } from "../models/whole_file.ts";
import { FloatFile } from "./float_files.ts";
import { UnusableRunError } from "./unusable_run_error.ts";

/** One order or list of scores for each head or group. */
const Orders = z.array(z.array(z.int().nonnegative()));
const Scores = z.array(z.array(z.number()));
const channelOrder = { channels: z.array(z.int().nonnegative()), channelScores: z.array(z.number()) };

/** What is known of a block after the statistics, by the end of which every block has an order. */
const BlockOrder = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("attention"),
    pairs: Orders,
    pairScores: Scores,
    passed: Orders,
    passedScores: Scores,
    /** Energies of the value components after their rotation, per key/value head. */
    valueEnergies: z.array(z.array(z.number())),
  }),
  z.strictObject({ kind: z.literal("gatedMlp"), ...channelOrder }),
  z.strictObject({ kind: z.literal("mlp"), ...channelOrder }),
  z.strictObject({
    kind: z.literal("mamba"),
    channels: Orders,
    channelScores: Scores,
    states: Orders,
    stateScores: Scores,
  }),
]);
export type BlockOrder = z.infer<typeof BlockOrder>;

/**
 * Checks what a block was ordered by: JSON has no word for what is not finite, so that neither a journal nor a manifest
 * could be read again.
 *
 * @param block Its name.
 * @throws {RangeError} If a score is not finite: activations, or their squares, overflow.
 */
export function checkScores(block: string, order: BlockOrder): void {
  for (const [field, values] of Object.entries(order)) {
    if (Array.isArray(values) && !values.flat().every(Number.isFinite)) {
      throw new RangeError(`Cannot compress ${block}: not all of its ${field} are finite`);
    }
  }
}

const MatrixErrors = z.array(z.strictObject({ matrix: z.string(), relativeError: z.number() }));

/**
 * What a run that is cut off goes on from. Lists in it grow with a model's axes; what grows with their squares is in files
 * of floats that it names, since a text of such numbers is slow, and of a large model longer than a string can be.
 */
const Journal = z.strictObject({
  /** Says which job this is; another one starts anew. */
  job: z.string(),
  phase: z.enum(["statistics", "recovery", "quantization", "finished"]),
  /** Layers of this phase that are finished; the streams are what enters the next. */
  layers: z.int().nonnegative(),
  streams: z.strictObject({
    hidden: FloatFile.exactOptional(),
    narrow: FloatFile.exactOptional(),
    reference: FloatFile.exactOptional(),
  }),
  orders: z.array(z.array(BlockOrder)),
  influence: z.array(z.number()),
  /** What each block is arranged by; null where that needs nothing but its order. */
  arrangedBy: z.array(z.array(FloatFile.nullable())),
  /** What recovery has learnt so far, where there is one: see `RecoveryState`. */
  recovery: z.strictObject({
    divergences: z.array(z.number()),
    adapters: FloatFile,
    means: z.tuple([FloatFile, FloatFile]),
  }).nullable(),
  /** CRC-32 of each tensor in the weights' file. */
  written: z.record(z.string(), z.int().nonnegative()),
  errors: z.array(z.array(MatrixErrors)),
  /** Of every level, when all is written and measured. */
  perplexities: z.array(z.number()),
  seconds: z.number(),
});
export type Journal = z.infer<typeof Journal>;

export const JOURNAL_FILE = "journal.json";

/**
 * The journal of an interrupted run, or null if there was none.
 *
 * @throws {UnusableRunError} If it is of another job, or cannot be read.
 */
export async function readJournal(folder: string, job: string): Promise<Journal | null> {
  let text: string;
  try {
    text = await Deno.readTextFile(join(folder, JOURNAL_FILE));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  const journal = decoded(text);
  if (journal === null) throw new UnusableRunError(`${JOURNAL_FILE} is not as it was written`);
  if (journal.job !== job) throw new UnusableRunError(`${JOURNAL_FILE} is of another job`);
  return journal;
}

function decoded(text: string): Journal | null {
  try {
    const { checksum, ...content } = JSON.parse(text);
    return checksum === sha256(JSON.stringify(content)) ? Journal.parse(content) : null;
  } catch {
    return null;
  }
}

/** Writes the journal, whole or not at all. */
export async function writeJournal(folder: string, journal: Journal): Promise<void> {
  const checksum = sha256(JSON.stringify(journal));
  await writeWhole(join(folder, JOURNAL_FILE), JSON.stringify({ ...journal, checksum }));
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/**
 * Removes what a run keeps for the case that it is cut off.
 *
 * @param keep The files that this journal names stay, and the journal too. Without it everything is removed.
 */
export async function removeState(folder: string, keep?: Journal): Promise<void> {
  const files = keep === undefined ? [] : [
    ...Object.values(keep.streams),
    ...keep.arrangedBy.flat(),
    ...(keep.recovery === null ? [] : [keep.recovery.adapters, ...keep.recovery.means]),
  ];
  const needed = new Set(files.map((file) => file?.name));
  if (keep !== undefined) needed.add(JOURNAL_FILE);
  const names = await Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
  const isState = /^(journal\.json|hidden\.|arrangement\.|recovery\.)/;
  const removed = names.filter((name) => isState.test(name) && !needed.has(name));
  // The journal last: what is left without it would be nobody's.
  removed.sort((a, b) => Number(a === JOURNAL_FILE) - Number(b === JOURNAL_FILE));
  for (const name of removed) await Deno.remove(join(folder, name));
}

/** Activations between two layers: of the quantized network, of a narrow level of it, and of the float one. */
export type Stream = "hidden" | "narrow" | "reference";

/** The file of a stream after so many layers: a name of its own, so that no journal names one that is being written. */
export function streamFile({ phase, layers }: Pick<Journal, "phase" | "layers">, stream: Stream): string {
  return `hidden.${phase}.${layers}.${stream}`;
}

/** The file of what a block is arranged by. */
export function arrangementFile(layer: number, index: number): string {
  return `arrangement.${layer}.${index}`;
}
