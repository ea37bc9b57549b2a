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
  /** Makes them those of a narrower level; only where nothing is recurrent. @param tokens That they hold. */
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
  /** Caches for a sequence that begins at a level; null if none are free. */
  take(level: number): SequenceCaches | null;
  /** Lets a lane work on a sequence's caches, or, with null, on nobody's. */
  seat(lane: number, caches: SequenceCaches | null): void;
  /** Runs the step that `inputs` describes. @returns Logits `[size.logits, V]`; the next run overwrites them. */
  run(size: StepSize, signal?: AbortSignal): Promise<Float32Array>;
  /** Frees what the runtime holds of it. After the session. */
  close(): void;
}
