import { join } from "node:path";
import { z } from "zod";

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
    /** `VᵀV` per key/value head, `[G][K · K]`; the rotation is made from it again. */
    valueGrams: z.array(z.array(z.number())),
    /** Energies of the value components after it, per key/value head. */
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

const MatrixErrors = z.array(z.strictObject({ matrix: z.string(), relativeError: z.number() }));

const Journal = z.strictObject({
  /** Says which job this is; another one starts anew. */
  job: z.string(),
  phase: z.enum(["statistics", "quantization"]),
  /** Layers of this phase that are finished; `hidden` holds what enters the next. */
  layers: z.int().nonnegative(),
  orders: z.array(z.array(BlockOrder)),
  influence: z.array(z.number()),
  /** `XᵀX` of what the head reads, `[D · D]`. */
  headGram: z.array(z.number()).nullable(),
  written: z.array(z.string()),
  errors: z.array(z.array(MatrixErrors)),
  seconds: z.number(),
});
export type Journal = z.infer<typeof Journal>;

const JOURNAL_FILE = "journal.json";

/** The journal of an interrupted run of the same job, or null. One that cannot be read counts as none. */
export async function readJournal(folder: string, job: string): Promise<Journal | null> {
  let text: string;
  try {
    text = await Deno.readTextFile(join(folder, JOURNAL_FILE));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  try {
    const journal = Journal.parse(JSON.parse(text));
    return journal.job === job ? journal : null;
  } catch {
    return null; // a run that was cut off while it wrote its first one
  }
}

/** Writes the journal, whole or not at all. */
export async function writeJournal(folder: string, journal: Journal): Promise<void> {
  const path = join(folder, JOURNAL_FILE);
  await Deno.writeTextFile(`${path}.partial`, JSON.stringify(journal));
  await Deno.rename(`${path}.partial`, path);
}

/** Activations between two layers: of the quantized network, and of the unmodified one. */
export type Stream = "hidden" | "reference";

/** Where a stream after so many layers is kept: a name of its own, so that a journal never names a torn one. */
export function hiddenFile(
  folder: string,
  { phase, layers }: Pick<Journal, "phase" | "layers">,
  stream: Stream,
): string {
  return join(folder, `hidden.${phase}.${layers}.${stream}`);
}
