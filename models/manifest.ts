import { createHash } from "node:crypto";
import { z } from "zod";

const Size = z.int().positive();
/** Of RoPE: frequencies fall from pair to pair, and scaling makes them no higher. */
const AtLeastOne = z.number().min(1);
/** 0 where the model lacks the kind of block that it is a size of. */
const SizeOrNone = z.int().nonnegative();
const Rate = z.number().min(0).lt(1);
const Order = z.array(z.array(z.int().nonnegative()));
const Scores = z.array(z.array(z.number()));

const Scaling = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("linear"), factor: AtLeastOne }),
  z.strictObject({
    kind: z.literal("llama3"),
    factor: AtLeastOne,
    lowFreqFactor: z.number().positive(),
    highFreqFactor: z.number().positive(),
    originalMaxPositionEmbeddings: Size,
  }).refine(({ lowFreqFactor, highFreqFactor }) => highFreqFactor > lowFreqFactor, {
    path: ["highFreqFactor"],
    error: "must be greater than lowFreqFactor",
  }),
]);

const Mamba = z.strictObject({
  numHeads: Size,
  headDim: Size,
  numGroups: Size,
  stateSize: Size,
  convKernel: z.int().min(2),
  chunkSize: Size,
  timeStepLimit: z.tuple([z.number().nonnegative(), z.number().positive().nullable()]).readonly()
    .refine(([min, max]) => max === null || min <= max, { error: "the least is above the greatest" }),
});

const Config = z.strictObject({
  family: z.string().regex(/^[a-z][a-z0-9_]{0,31}$/, "must be a short name in lower case"),
  hiddenSize: Size,
  intermediateSize: SizeOrNone,
  numHiddenLayers: Size,
  numAttentionHeads: SizeOrNone,
  numKeyValueHeads: SizeOrNone,
  headDim: SizeOrNone,
  mamba: Mamba.exactOptional(),
  vocabSize: Size,
  rmsNormEps: z.number().positive(),
  maxPositionEmbeddings: Size,
  rope: z.strictObject({
    theta: AtLeastOne,
    scaling: Scaling.nullable(),
    rotaryDim: SizeOrNone.exactOptional(),
  }),
  tieWordEmbeddings: z.boolean(),
  bosTokenId: z.int().nonnegative().nullable(),
  eosTokenIds: z.array(z.int().nonnegative()),
});

const Block = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("attention"),
    /** Kept head components per level. */
    widths: z.array(Size).min(1),
    queryKeyBias: z.boolean(),
    outputBias: z.boolean(),
    /** For each key/value head, the original rotary pair at each place, most important first. */
    pairs: Order.min(1),
    /** Raw scores behind `pairs`, by original pair; empty where the order has none. */
    pairScores: Scores,
    /** For each key/value head, the original component at each place that RoPE leaves alone; absent if it turns all. */
    passed: Order.exactOptional(),
    /** Raw scores behind `passed`, by original component less those that are turned. */
    passedScores: Scores.exactOptional(),
    /** Value components per head are rotated, not permuted; these are their energies after it. */
    valueEnergies: Scores,
  }),
  z.strictObject({
    kind: z.literal("gatedMlp"),
    widths: z.array(Size).min(1),
    /** The original channel at each place, most important first. */
    channels: z.array(z.int().nonnegative()).min(1),
    /**
     * Raw scores by original channel, higher is kept longer, in whatever unit the recipe's order has; empty where it has
     * none.
     */
    channelScores: z.array(z.number()),
  }),
  z.strictObject({
    kind: z.literal("mlp"),
    widths: z.array(Size).min(1),
    channels: z.array(z.int().nonnegative()).min(1),
    channelScores: z.array(z.number()),
  }),
  z.strictObject({
    kind: z.literal("mamba"),
    /** Kept channels of a head per level. */
    widths: z.array(Size).min(1),
    /** Kept states of a group per level. */
    stateWidths: z.array(Size).min(1),
    convBias: z.boolean(),
    skipPerChannel: z.boolean(),
    /** For each head, the original channel at each place, most important first, and raw scores by original channel. */
    channels: Order.min(1),
    channelScores: Scores,
    /** For each group, the original state at each place, and raw scores by original state. */
    states: Order.min(1),
    stateScores: Scores,
  }),
]);

const FileRecord = z.strictObject({ bytes: z.int().nonnegative(), sha256: z.hex().length(64) });

/** The schema of `espalier.json`. Unknown fields are refused: they would mean something that this version ignores. */
export const Manifest = z.strictObject({
  format: z.literal("espalier"),
  version: z.literal(1),
  name: z.string().regex(/^[\w.-]{1,64}$/),
  config: Config,
  quantization: z.strictObject({
    bits: z.literal(4),
    blockSize: z.union([z.literal(32), z.literal(64), z.literal(128)]),
  }),
  /** The residual stream is rotated by a Hadamard matrix. */
  rotatedResidual: z.boolean(),
  levels: z.array(z.strictObject({ pruningRate: Rate, perplexity: z.number().positive().nullable() })).min(1),
  /** Blocks in order, layer by layer. */
  layers: z.array(z.array(Block).min(1)).min(1),
  /** How much each block changes what it reads, 0 to 2; what layer rates were made from. */
  blockInfluence: z.array(z.array(z.number())),
  files: z.record(z.string(), FileRecord),
  provenance: z.record(z.string(), z.json()),
});

export type Manifest = z.infer<typeof Manifest>;

/** What a manifest says of one block. */
export type ManifestBlock = z.infer<typeof Block>;

/** The manifest as text, with a checksum of its own content. */
export function encodeManifest(manifest: Manifest): string {
  const content = JSON.stringify(manifest);
  return `${JSON.stringify({ ...manifest, checksum: sha256(content) })}\n`;
}

/**
 * @throws {SyntaxError} If the text is no manifest of this version, or was changed after it had been written; the
 * message names every offending field.
 */
export function decodeManifest(text: string): Manifest {
  try {
    return decoded(text);
  } catch (cause) {
    // What checks and writes JSON calls itself for everything that lies in something else.
    if (cause instanceof RangeError) throw new SyntaxError(`${CANNOT}: it is nested too deeply`, { cause });
    throw cause;
  }
}

const CANNOT = "Cannot read espalier.json";

function decoded(text: string): Manifest {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw new SyntaxError(`${CANNOT}: it is not JSON (${(cause as Error).message})`, { cause });
  }
  if (raw === null || typeof raw !== "object") throw new SyntaxError(`${CANNOT}: it is not an object`);
  const { checksum, ...content } = raw as Record<string, unknown>;
  const parsed = Manifest.safeParse(content);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".") || "manifest"}: ${message}`);
    throw new SyntaxError(`${CANNOT}:\n  ${problems.join("\n  ")}`);
  }
  const found = sha256(JSON.stringify(content));
  if (checksum !== found) {
    throw new SyntaxError(`${CANNOT}: its checksum is ${checksum}, its content's is ${found}; it was changed`);
  }
  return parsed.data;
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
