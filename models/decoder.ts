import { type CudaOptions, ELEMENT_BYTES, ElementType, type Runtime, type Session } from "../onnx/mod.ts";
import { ArrayMemory } from "./array_memory.ts";
import type { DecoderMemory, SequenceCaches } from "./decoder_memory.ts";
import { decoderGraph, type Operators } from "./graph/decoder.ts";
import type { Weights } from "./graph/weights.ts";
import { LaneMemory } from "./lane_memory.ts";
import { cpuPlace, cudaPlace } from "./lane_place.ts";
import type { ModelPlan } from "./plan.ts";
import { PooledMemory } from "./pooled_memory.ts";
import { cacheCapacity } from "./pools.ts";

export interface DecoderOptions {
  readonly plan: ModelPlan;
  readonly weights: Weights;
  /** The folder that the weights' file ranges refer to. */
  readonly folder: string;
  /** Sequences that a step can hold, hence also sequences that can be open. */
  readonly lanes: number;
  /** Tokens that a sequence can hold. */
  readonly maxTokens: number;
  /** Rows that a step can hold, over all lanes. */
  readonly maxRows: number;
  readonly threads: number;
  /** Where steps run; on the CPU if not given. Stock operators on a CUDA device run no Mamba blocks. */
  readonly device?: Device;
  /** Path of the library of our own operators for the device, which take int4 weights; null serves with stock ones. */
  readonly operators?: string | null;
  /** See `SessionOptions`. */
  readonly profilePrefix?: string;
}

export type Device = "cpu" | "cuda";

/** What graphs are built of, with our operators and with stock ones. */
const OPERATORS: Readonly<Record<Device, Readonly<Record<"ours" | "stock", Operators>>>> = {
  cpu: { ours: "native", stock: "stock" },
  cuda: { ours: "cuda", stock: "half" },
};

/** Bytes of a number in keys and values: those of stock operators on the CPU are float32, all others float16. */
export function cacheElementBytes(device: Device, ours: boolean): number {
  return ELEMENT_BYTES[device === "cpu" && !ours ? ElementType.float32 : ElementType.float16];
}

/** What one sequence does in a step. */
export interface StepEntry {
  readonly sequence: Sequence;
  /** The next tokens of the sequence: a prefill chunk, or the last token sampled. */
  readonly tokens: ArrayLike<number>;
  /** Logits wanted: of the last token, of every token, or none (a prefill chunk that is not the last). */
  readonly logits: "last" | "all" | "none";
}

/** A sequence in progress: its level, and its keys, values and states. */
export interface Sequence {
  readonly level: number;
  /** Tokens so far. */
  readonly length: number;
  /**
   * Goes on at a narrower level, between two steps: its next tokens are computed at it, and see of the earlier ones what
   * a narrower level keeps. There is no way back: what is dropped is lost.
   *
   * @throws {RangeError} If it was closed, the level is not narrower, or the decoder cannot narrow.
   */
  narrow(level: number): void;
  /**
   * Gives the caches back. Closing twice does nothing, nor does it after the decoder was closed.
   *
   * @throws {TypeError} If a step is under way; it is to be closed after that.
   */
  close(): void;
}

class OpenSequence implements Sequence {
  length = 0;
  closed = false;
  /** A step failed after it may have overwritten a state. */
  spoiled = false;
  constructor(
    public level: number,
    readonly caches: SequenceCaches,
    readonly owner: { narrow(sequence: OpenSequence, level: number): void; release(sequence: OpenSequence): void },
  ) {}
  narrow(level: number): void {
    this.owner.narrow(this, level);
  }
  close(): void {
    if (this.closed) return;
    this.owner.release(this);
    this.closed = true;
  }
}

/** Sequences, and the steps that they take together, over a session of the elastic graph. */
export class Decoder {
  readonly #options: DecoderOptions;
  readonly #session: Session;
  readonly #memory: DecoderMemory;
  /** Of the last step's entries: their first row among the logits. */
  #firstLogits: readonly (number | undefined)[] = [];
  #closed = false;

  constructor(session: Session, memory: DecoderMemory, options: DecoderOptions) {
    this.#options = options;
    this.#session = session;
    this.#memory = memory;
  }

  get plan(): ModelPlan {
    return this.#options.plan;
  }

  get maxRows(): number {
    return this.#options.maxRows;
  }

  get maxTokens(): number {
    return this.#options.maxTokens;
  }

  /** Sequences that can still be opened. */
  get freeSlots(): number {
    return this.#memory.freeSlots;
  }

  /**
   * Whether its sequences can be narrowed. Not with Mamba blocks: the channels of their states stand level by level. Nor with
   * stock operators on a CUDA device.
   */
  get narrows(): boolean {
    return this.#memory.narrows;
  }

  /**
   * Starts a sequence. It keeps its level to its end, unless it is narrowed.
   *
   * @throws {RangeError} If there is no such level, or no slot is free.
   */
  openSequence(level: number): Sequence {
    const { plan, lanes } = this.#options;
    if (!Number.isInteger(level) || level < 0 || level >= plan.levels) {
      throw new RangeError(`Cannot open a sequence at level ${level}: there are levels 0 to ${plan.levels - 1}`);
    }
    const caches = this.#memory.take(level);
    if (caches === null) throw new RangeError(`Cannot open a sequence: all ${lanes} slots are taken`);
    return new OpenSequence(level, caches, {
      narrow: (sequence, level) => this.#narrow(sequence, level),
      release: ({ caches }) => {
        if (!this.#closed) caches.release();
      },
    });
  }

  /**
   * Runs the next tokens of several sequences, each at its own level.
   *
   * One step at a time: the caller waits for the promise. A step that fails or is cancelled leaves the lengths as they
   * were. It can be repeated, except with Mamba blocks once it has begun: it may have overwritten states, so that its
   * sequences can only be closed.
   *
   * @param signal Stops the step between two nodes; our own operators on the CPU are one, from the embedding to the head.
   * @returns Per entry, in the given order, logits `[n, V]`; a view that the next step overwrites, and that ends with the decoder.
   * @throws {RangeError} If a sequence is closed, given twice or too long, or the step has too many rows.
   */
  async step(entries: readonly StepEntry[], signal?: AbortSignal): Promise<Float32Array[]> {
    this.#check(entries);
    const { plan, lanes } = this.#options;
    const { vocabSize } = plan.config;
    const { tokens, positions, laneRows, laneLevels, laneLengths } = this.#memory.inputs;
    const order = entries.map((_, index) => index).sort((a, b) =>
      entries[a]!.sequence.level - entries[b]!.sequence.level || a - b
    );
    const results: { from: number; to: number }[] = [];
    let [rows, logits] = [0, 0];
    for (let lane = 0; lane < lanes; lane++) {
      const entry = lane < order.length ? entries[order[lane]!]! : undefined;
      const sequence = (entry?.sequence ?? null) as OpenSequence | null;
      this.#memory.seat(lane, sequence?.caches ?? null);
      const count = entry?.tokens.length ?? 0;
      laneRows[lane] = BigInt(count);
      laneLevels[lane] = BigInt(sequence?.level ?? plan.levels - 1);
      laneLengths[lane] = sequence === null ? 1 : sequence.length + count;
      if (entry === undefined || sequence === null) continue;
      const firstLogit = logits;
      for (let i = 0; i < count; i++, rows++) {
        tokens[rows] = BigInt(entry.tokens[i]!);
        positions[rows] = BigInt(sequence.length + i);
        if (entry.logits === "all" || (entry.logits === "last" && i === count - 1)) {
          this.#memory.inputs.logitRows[logits++] = BigInt(rows);
        }
      }
      results[order[lane]!] = { from: firstLogit, to: logits };
    }
    signal?.throwIfAborted();
    let computed: Float32Array;
    try {
      computed = await this.#memory.run({ lanes: entries.length, rows, logits }, signal);
    } catch (error) {
      for (const { sequence } of entries) (sequence as OpenSequence).spoiled = this.#memory.recurrent;
      throw error;
    }
    for (const { sequence, tokens } of entries) (sequence as OpenSequence).length += tokens.length;
    this.#firstLogits = results.map(({ from, to }) => from < to ? from : undefined);
    return results.map(({ from, to }) => computed.subarray(from * vocabSize, to * vocabSize));
  }

  /**
   * The token of the greatest logit of an entry of the last step, the first of several: where the device has found it, so
   * that nobody need look through the logits. Of an entry that wanted all logits, the first row's.
   *
   * @param entry Its place among the step's entries.
   * @returns null where it is not known.
   */
  likeliest(entry: number): number | null {
    const [tokens, row] = [this.#memory.likeliest, this.#firstLogits[entry]];
    return tokens === null || row === undefined ? null : Number(tokens[row]!);
  }

  /** Ends profiling and returns the path of the timeline. */
  endProfiling(): string {
    return this.#session.endProfiling();
  }

  /** Frees the session. @throws {TypeError} If a step is under way. */
  close(): void {
    this.#session.close();
    this.#closed = true;
    this.#memory.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #check(entries: readonly StepEntry[]): void {
    const { lanes, maxRows, maxTokens } = this.#options;
    if (entries.length === 0 || entries.length > lanes) {
      throw new RangeError(`Cannot step ${entries.length} sequences: a step holds 1 to ${lanes}`);
    }
    if (new Set(entries.map(({ sequence }) => sequence)).size < entries.length) {
      throw new RangeError("Cannot step a sequence twice in one step");
    }
    const rows = entries.reduce((sum, { tokens }) => sum + tokens.length, 0);
    if (rows > maxRows) throw new RangeError(`Cannot step ${rows} rows: a step holds ${maxRows}`);
    for (const { sequence, tokens } of entries) {
      if ((sequence as OpenSequence).closed) throw new RangeError("Cannot step a sequence after it was closed");
      if ((sequence as OpenSequence).spoiled) {
        throw new RangeError("Cannot step a sequence after a step of it failed: its states are lost");
      }
      if (tokens.length === 0) throw new RangeError("Cannot step a sequence without tokens");
      if (sequence.length + tokens.length > maxTokens) {
        throw new RangeError(
          `Cannot step a sequence to ${sequence.length + tokens.length} tokens: its cache holds ${maxTokens}`,
        );
      }
    }
  }

  #narrow(sequence: OpenSequence, level: number): void {
    const { plan } = this.#options;
    if (sequence.closed) throw new RangeError("Cannot narrow a sequence after it was closed");
    if (!Number.isInteger(level) || level <= sequence.level || level >= plan.levels) {
      throw new RangeError(
        `Cannot narrow a sequence at level ${sequence.level} to ${level}: ${plan.levels - 1} is the narrowest`,
      );
    }
    if (!this.narrows) {
      const where = this.#memory.recurrent ? "with states of Mamba blocks" : "whose caches the host does not reach";
      throw new RangeError(`Cannot narrow a sequence ${where}`);
    }
    sequence.caches.narrow(sequence.level, level, sequence.length);
    sequence.level = level;
  }
}

/**
 * Builds the elastic graph and opens it. On a CUDA device it also runs what later steps will, so that these find their memory
 * taken and their graphs captured.
 */
export async function openDecoder(runtime: Runtime, options: DecoderOptions): Promise<Decoder> {
  const { plan, weights, lanes, maxTokens, device = "cpu", operators = null } = options;
  const capacity = cacheCapacity(maxTokens);
  const ours = operators !== null;
  // Around stock operators sizes are computed on the CPU.
  const cuda: CudaOptions = { capture: ours && options.profilePrefix === undefined, everyNode: ours };
  const session = await runtime.openSession({
    model: decoderGraph(plan, weights, {
      lanes,
      operators: OPERATORS[device][ours ? "ours" : "stock"],
      // A profile tells operators apart by their nodes.
      chained: options.profilePrefix === undefined,
      capacity,
    }),
    threads: device === "cuda" ? 1 : options.threads,
    folder: options.folder,
    ...(ours && { operators }),
    ...(options.profilePrefix !== undefined && { profilePrefix: options.profilePrefix }),
    ...(device === "cuda" && { cuda }),
  });
  try {
    const memory = await openMemory(runtime, session, { ...options, capacity, capture: cuda.capture });
    return new Decoder(session, memory, options);
  } catch (error) {
    session.close();
    throw error;
  }
}

function openMemory(
  runtime: Runtime,
  session: Session,
  options: DecoderOptions & { capacity: number; capture: boolean },
): DecoderMemory | Promise<DecoderMemory> {
  const { device = "cpu", operators = null } = options;
  if (operators !== null) {
    return device === "cuda"
      ? PooledMemory.open(runtime, session, options)
      : new ArrayMemory(runtime, session, options);
  }
  const place = device === "cuda" ? cudaPlace(runtime) : cpuPlace(runtime, ElementType.float32);
  return new LaneMemory(runtime, session, { ...options, place });
}
