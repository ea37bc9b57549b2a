import type { ModelPlan } from "./plan.ts";

/** What a step reads: the caller fills as much as the step has. */
export interface StepInputs {
  /** The rows of all lanes, lane after lane. */
  readonly tokens: BigInt64Array<ArrayBuffer>;
  /** Each row's place in its sequence. */
  readonly positions: BigInt64Array<ArrayBuffer>;
  /** The rows whose logits are wanted. */
  readonly logitRows: BigInt64Array<ArrayBuffer>;
  /** Per lane; see `LaneInputs`. */
  readonly laneRows: BigInt64Array<ArrayBuffer>;
  readonly laneLevels: BigInt64Array<ArrayBuffer>;
  readonly laneLengths: Int32Array<ArrayBuffer>;
}

/** How much of its inputs a step uses. */
export interface StepSize {
  /** Lanes that are not idle: the first so many. */
  readonly lanes: number;
  readonly rows: number;
  readonly logits: number;
}

/** Keys, values and states of one sequence. */
export interface SequenceCaches {
  /** Makes them those of a narrower level; only in memory that `narrows`. @param tokens That they hold. */
  narrow(from: number, to: number, tokens: number): void;
  /** Gives them back. */
  release(): void;
}

/** What the steps of a decoder work in: their inputs, the caches of its sequences, and the logits. */
export interface DecoderMemory {
  readonly inputs: StepInputs;
  /** Sequences for which there are caches still. */
  readonly freeSlots: number;
  /** Whether sequences have states that every step overwrites. */
  readonly recurrent: boolean;
  /** Whether caches can be made those of a narrower level. Not where something is recurrent. */
  readonly narrows: boolean;
  /** Caches for a sequence that begins at a level; null if none are free. */
  take(level: number): SequenceCaches | null;
  /** Lets a lane work on a sequence's caches, or, with null, on nobody's. */
  seat(lane: number, caches: SequenceCaches | null): void;
  /** After a run: the token of the greatest logit of every row, where the device looks for it; else null. */
  readonly likeliest: BigInt64Array<ArrayBuffer> | null;
  /** Runs the step that `inputs` describes. @returns Logits `[size.logits, V]`; the next run overwrites them. */
  run(size: StepSize, signal?: AbortSignal): Promise<Float32Array>;
  /** Frees what the runtime holds of it. After the session. */
  close(): void;
}

/** For a device, which reads where it is told to. @throws {RangeError} If a token is none of the vocabulary's. */
export function checkTokens(tokens: BigInt64Array, { config: { vocabSize } }: ModelPlan): void {
  const bad = tokens.find((token) => token < 0n || token >= BigInt(vocabSize));
  if (bad !== undefined) throw new RangeError(`Cannot step with token ${bad}: the vocabulary has ${vocabSize}`);
}
