import { type Binding, ElementType, type Model, type Runtime, type Session, type Tensor } from "../onnx/mod.ts";
import { type Cache, cachesOf, elementsOf, narrowCache } from "./caches.ts";
import { CACHE_TOKENS } from "./graph/cached_attention.ts";
import { decoderGraph } from "./graph/decoder.ts";
import type { Weights } from "./graph/weights.ts";
import type { ModelPlan } from "./plan.ts";

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
  /** Path of the library of our own operators, which take int4 weights; null serves with stock ones. */
  readonly operators?: string | null;
  /** See `SessionOptions`. */
  readonly profilePrefix?: string;
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
  /** Gives the caches back. Closing twice does nothing. */
  close(): void;
}

/** Cache memory of one sequence, used again and again: an array for every cache, as large as any level needs it. */
interface Slot {
  readonly arrays: readonly Float32Array<ArrayBuffer>[];
}

class OpenSequence implements Sequence {
  length = 0;
  closed = false;
  /** A step failed after it may have overwritten a state. */
  spoiled = false;
  constructor(
    public level: number,
    readonly slot: Slot,
    public caches: readonly Tensor[],
    readonly owner: { narrow(sequence: OpenSequence, level: number): void; release(sequence: OpenSequence): void },
  ) {}
  narrow(level: number): void {
    this.owner.narrow(this, level);
  }
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.owner.release(this);
  }
}

/** A session over the elastic graph, and the memory that its steps work in. */
export class Decoder {
  readonly #runtime: Runtime;
  readonly #options: DecoderOptions;
  readonly #session: Session;
  readonly #binding: Binding;
  readonly #caches: readonly Cache[];
  /** Tokens of a cache. */
  readonly #capacity: number;
  readonly #freeSlots: Slot[];
  /** The smallest caches, for lanes without a sequence. */
  readonly #idleCaches: readonly (readonly Tensor[])[];
  readonly #occupants: (OpenSequence | null | undefined)[];
  readonly #tokens: BigInt64Array<ArrayBuffer>;
  readonly #positions: BigInt64Array<ArrayBuffer>;
  readonly #logitRows: BigInt64Array<ArrayBuffer>;
  readonly #lanes: {
    rows: Tensor<BigInt64Array<ArrayBuffer>>;
    levels: Tensor<BigInt64Array<ArrayBuffer>>;
    lengths: Tensor<Int32Array<ArrayBuffer>>;
  };
  readonly #tensors = new Map<string, Tensor>();
  #logits: Float32Array<ArrayBuffer>;

  constructor(runtime: Runtime, session: Session, options: DecoderOptions) {
    this.#runtime = runtime;
    this.#options = options;
    this.#session = session;
    this.#binding = session.bind();
    const { plan, lanes, maxRows, maxTokens } = options;
    this.#capacity = Math.ceil(maxTokens / CACHE_TOKENS) * CACHE_TOKENS;
    const { vocabSize } = plan.config;
    this.#caches = cachesOf(plan);
    // Pages of a fresh array cost nothing until they are written, so slots take the memory that their tokens need.
    this.#freeSlots = Array.from({ length: lanes }, () => ({
      arrays: this.#caches.map(({ shape }) => new Float32Array(elementsOf(shape(0, this.#capacity)))),
    }));
    this.#idleCaches = Array.from(
      { length: lanes },
      () => this.#caches.map(({ idle }) => this.#cacheTensor(idle, new Float32Array(elementsOf(idle)))),
    );
    this.#occupants = Array.from({ length: lanes }, () => undefined);
    this.#tokens = new BigInt64Array(maxRows);
    this.#positions = new BigInt64Array(maxRows);
    this.#logitRows = new BigInt64Array(maxRows);
    this.#logits = new Float32Array(lanes * vocabSize);
    this.#lanes = {
      rows: runtime.tensor(ElementType.int64, [lanes], new BigInt64Array(lanes)),
      levels: runtime.tensor(ElementType.int64, [lanes], new BigInt64Array(lanes)),
      lengths: runtime.tensor(ElementType.int32, [lanes], new Int32Array(lanes)),
    };
    this.#binding
      .input("lane_rows", this.#lanes.rows)
      .input("lane_levels", this.#lanes.levels)
      .input("lane_lengths", this.#lanes.lengths);
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
    return this.#freeSlots.length;
  }

  /** Whether its sequences can be narrowed. Not with Mamba blocks: the channels of their states stand level by level. */
  get narrows(): boolean {
    return this.#caches.every(({ recurrent }) => !recurrent);
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
    const slot = this.#freeSlots.pop();
    if (slot === undefined) throw new RangeError(`Cannot open a sequence: all ${lanes} slots are taken`);
    const caches = this.#caches.map(({ shape, recurrent }, index) => {
      const dimensions = shape(level, this.#capacity);
      const array = slot.arrays[index]!.subarray(0, elementsOf(dimensions));
      if (recurrent) array.fill(0);
      return this.#cacheTensor(dimensions, array);
    });
    return new OpenSequence(level, slot, caches, {
      narrow: (sequence, level) => this.#narrow(sequence, level),
      release: (sequence) => this.#release(sequence),
    });
  }

  /**
   * Runs the next tokens of several sequences, each at its own level.
   *
   * One step at a time: the caller waits for the promise. A step that fails or is cancelled leaves the lengths as they
   * were. It can be repeated, except with Mamba blocks once it has begun: it may have overwritten states, so that its
   * sequences can only be closed.
   *
   * @returns Per entry, in the given order, logits `[n, V]`; a view that the next step overwrites.
   * @throws {RangeError} If a sequence is closed, given twice or too long, or the step has too many rows.
   */
  async step(entries: readonly StepEntry[], signal?: AbortSignal): Promise<Float32Array[]> {
    this.#check(entries);
    const { plan, lanes } = this.#options;
    const { vocabSize } = plan.config;
    const order = entries.map((_, index) => index).sort((a, b) =>
      entries[a]!.sequence.level - entries[b]!.sequence.level || a - b
    );
    const results: { from: number; to: number }[] = [];
    let [rows, logitRows] = [0, 0];
    for (let lane = 0; lane < lanes; lane++) {
      const entry = lane < order.length ? entries[order[lane]!]! : undefined;
      const sequence = (entry?.sequence ?? null) as OpenSequence | null;
      this.#seat(lane, sequence);
      const count = entry?.tokens.length ?? 0;
      this.#lanes.rows.data[lane] = BigInt(count);
      this.#lanes.levels.data[lane] = BigInt(sequence?.level ?? plan.levels - 1);
      this.#lanes.lengths.data[lane] = sequence === null ? 1 : sequence.length + count;
      if (entry === undefined || sequence === null) continue;
      const firstLogit = logitRows;
      for (let i = 0; i < count; i++, rows++) {
        this.#tokens[rows] = BigInt(entry.tokens[i]!);
        this.#positions[rows] = BigInt(sequence.length + i);
        if (entry.logits === "all" || (entry.logits === "last" && i === count - 1)) {
          this.#logitRows[logitRows++] = BigInt(rows);
        }
      }
      results[order[lane]!] = { from: firstLogit, to: logitRows };
    }
    if (this.#logits.length < logitRows * vocabSize) {
      this.#logits = new Float32Array(logitRows * vocabSize);
      for (const [key, tensor] of this.#tensors) {
        if (key.startsWith("logits ")) (tensor.close(), this.#tensors.delete(key));
      }
    }
    this.#binding
      .input("tokens", this.#view("tokens", rows, this.#tokens))
      .input("positions", this.#view("positions", rows, this.#positions))
      .input("logit_rows", this.#view("logit_rows", logitRows, this.#logitRows))
      .output("logits", this.#logitsView(logitRows));
    signal?.throwIfAborted();
    try {
      await this.#binding.run(signal);
    } catch (error) {
      const spoiled = this.#caches.some(({ recurrent }) => recurrent);
      for (const { sequence } of entries) (sequence as OpenSequence).spoiled = spoiled;
      throw error;
    }
    for (const { sequence, tokens } of entries) (sequence as OpenSequence).length += tokens.length;
    return results.map(({ from, to }) => this.#logits.subarray(from * vocabSize, to * vocabSize));
  }

  /** Ends profiling and returns the path of the timeline. */
  endProfiling(): string {
    return this.#session.endProfiling();
  }

  /** Frees the session. @throws {TypeError} If a step is under way. */
  close(): void {
    this.#session.close();
    for (const tensor of [...this.#tensors.values(), ...this.#idleCaches.flat(), ...Object.values(this.#lanes)]) {
      tensor.close();
    }
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

  /** Binds a lane to a sequence's caches, or to none. */
  #seat(lane: number, sequence: OpenSequence | null): void {
    if (this.#occupants[lane] === sequence) return;
    const caches = sequence?.caches ?? this.#idleCaches[lane]!;
    this.#caches.forEach((cache, index) => {
      const { past, present } = cache.names(lane);
      this.#binding.input(past, caches[index]!).output(present, caches[index]!);
    });
    this.#occupants[lane] = sequence;
  }

  #narrow(sequence: OpenSequence, level: number): void {
    const { plan, operators = null } = this.#options;
    if (sequence.closed) throw new RangeError("Cannot narrow a sequence after it was closed");
    if (!Number.isInteger(level) || level <= sequence.level || level >= plan.levels) {
      throw new RangeError(
        `Cannot narrow a sequence at level ${sequence.level} to ${level}: ${plan.levels - 1} is the narrowest`,
      );
    }
    if (!this.narrows) throw new RangeError("Cannot narrow a sequence with states of Mamba blocks");
    this.#unseat(sequence);
    const tokens = sequence.length;
    sequence.caches = this.#caches.map(({ shape, keys }, index) => {
      const [, heads, capacity, from] = shape(sequence.level, this.#capacity) as [number, number, number, number];
      const dimensions = shape(level, this.#capacity);
      const to = dimensions[3]!;
      if (to === from) return sequence.caches[index]!;
      sequence.caches[index]!.close();
      const array = sequence.slot.arrays[index]!;
      const sideBySide = keys && operators !== null ? CACHE_TOKENS : 1;
      narrowCache(array, { heads, capacity, tokens, sideBySide, from, to });
      return this.#cacheTensor(dimensions, array.subarray(0, elementsOf(dimensions)));
    });
    sequence.level = level;
  }

  #unseat(sequence: OpenSequence): void {
    this.#occupants.forEach((occupant, lane) => {
      if (occupant === sequence) this.#seat(lane, null);
    });
  }

  #release(sequence: OpenSequence): void {
    this.#unseat(sequence);
    for (const cache of sequence.caches) cache.close();
    this.#freeSlots.push(sequence.slot);
  }

  #cacheTensor(shape: readonly number[], data: Float32Array<ArrayBuffer>): Tensor {
    return this.#runtime.tensor(ElementType.float32, shape, data);
  }

  #view(name: string, length: number, array: BigInt64Array<ArrayBuffer>): Tensor {
    return this.#tensor(
      `${name} ${length}`,
      () => this.#runtime.tensor(ElementType.int64, [length], array.subarray(0, length)),
    );
  }

  #logitsView(rows: number): Tensor {
    const { vocabSize } = this.#options.plan.config;
    return this.#tensor(
      `logits ${rows}`,
      () => this.#runtime.tensor(ElementType.float32, [rows, vocabSize], this.#logits.subarray(0, rows * vocabSize)),
    );
  }

  #tensor(key: string, make: () => Tensor): Tensor {
    let tensor = this.#tensors.get(key);
    if (tensor === undefined) this.#tensors.set(key, tensor = make());
    return tensor;
  }
}

/** Builds the elastic graph and opens it. */
export async function openDecoder(runtime: Runtime, options: DecoderOptions): Promise<Decoder> {
  const { operators = null } = options;
  const model: Model = decoderGraph(options.plan, options.weights, {
    lanes: options.lanes,
    native: operators !== null,
  });
  const session = await runtime.openSession({
    model,
    threads: options.threads,
    folder: options.folder,
    ...(operators !== null && { operators }),
    ...(options.profilePrefix !== undefined && { profilePrefix: options.profilePrefix }),
  });
  return new Decoder(runtime, session, options);
}
