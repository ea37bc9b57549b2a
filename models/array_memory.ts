import {
  alignedFloats,
  type Binding,
  ElementType,
  type Runtime,
  type Session,
  type Tensor,
  wishForHugePages,
} from "../onnx/mod.ts";
import { arrayPlaces, type Cache, cachesOf, elementsOf, narrowCache } from "./caches.ts";
import type { DecoderMemory, SequenceCaches, StepInputs, StepSize } from "./decoder_memory.ts";
import { CACHE_TOKENS } from "./graph/cached_attention.ts";
import { ROWS_UP_TO } from "./graph/decoder.ts";
import { laneArrayName } from "./graph/lane_arrays.ts";
import type { ModelPlan } from "./plan.ts";

export interface ArrayMemoryOptions {
  readonly plan: ModelPlan;
  readonly lanes: number;
  readonly maxRows: number;
  /** Tokens of a cache. */
  readonly capacity: number;
}

/** Cache memory of one sequence, used again and again: every cache in its place in one array, see `arrayPlaces`. */
interface Slot {
  readonly whole: Tensor;
  readonly caches: readonly (Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>)[];
}

/**
 * For our own operators on the CPU: a sequence has all its caches in one array, keys and values in half precision, keys of
 * `CACHE_TOKENS` tokens side by side, and the array is bound to the lane that it sits in.
 */
export class ArrayMemory implements DecoderMemory {
  readonly inputs: StepInputs;
  /** The processor looks through the logits itself. */
  readonly likeliest = null;
  readonly #runtime: Runtime;
  readonly #options: ArrayMemoryOptions;
  readonly #binding: Binding;
  readonly #caches: readonly Cache[];
  readonly #freeSlots: Slot[];
  /** For lanes without a sequence. */
  readonly #nothing: Tensor;
  readonly #occupants: (ArrayCaches | null | undefined)[];
  /** Per level, how many of a step's rows have at most this one. */
  readonly #rowsUpTo: BigInt64Array<ArrayBuffer>;
  readonly #tensors = new Map<string, Tensor>();
  #logits: Float32Array<ArrayBuffer>;

  constructor(runtime: Runtime, session: Session, options: ArrayMemoryOptions) {
    this.#runtime = runtime;
    this.#options = options;
    this.#binding = session.bind();
    const { plan, lanes, maxRows, capacity } = options;
    const { float32, int32, int64 } = ElementType;
    this.#caches = cachesOf(plan);
    const places = arrayPlaces(this.#caches, capacity);
    // Pages of a fresh array cost nothing until they are written, so slots take the memory that their tokens need.
    this.#freeSlots = Array.from({ length: lanes }, (_, slot) => {
      const array = alignedFloats(places.at(-1)!);
      // Keys and values fill a part of theirs as tokens come.
      if (this.#caches.every(({ recurrent }) => recurrent)) wishForHugePages(array);
      return {
        whole: this.#tensor(`slot ${slot}`, () => runtime.tensor(float32, [array.length], array)),
        caches: this.#caches.map(({ recurrent }, index) => {
          const place = array.subarray(places[index], places[index + 1]);
          return recurrent ? place : new Uint16Array(place.buffer, place.byteOffset, place.byteLength / 2);
        }),
      };
    });
    this.#nothing = this.#tensor("nothing", () => runtime.tensor(float32, [0], new Float32Array(0)));
    this.#occupants = Array.from({ length: lanes }, () => undefined);
    this.inputs = {
      tokens: new BigInt64Array(maxRows),
      positions: new BigInt64Array(maxRows),
      logitRows: new BigInt64Array(maxRows),
      laneRows: new BigInt64Array(lanes),
      laneLevels: new BigInt64Array(lanes),
      laneLengths: new Int32Array(lanes),
    };
    this.#logits = new Float32Array(lanes * plan.config.vocabSize);
    const { laneRows, laneLevels, laneLengths } = this.inputs;
    const begins = BigInt64Array.from(places, BigInt);
    const rowsUpTo = this.#rowsUpTo = new BigInt64Array(plan.levels);
    if (plan.levels > 1) {
      this.#binding.input(ROWS_UP_TO, this.#tensor(ROWS_UP_TO, () => runtime.tensor(int64, [plan.levels], rowsUpTo)));
    }
    this.#binding
      .input("lane_rows", this.#tensor("lane_rows", () => runtime.tensor(int64, [lanes], laneRows)))
      .input("lane_levels", this.#tensor("lane_levels", () => runtime.tensor(int64, [lanes], laneLevels)))
      .input("lane_lengths", this.#tensor("lane_lengths", () => runtime.tensor(int32, [lanes], laneLengths)))
      .input("cache_places", this.#tensor("cache_places", () => runtime.tensor(int64, [begins.length], begins)));
  }

  get freeSlots(): number {
    return this.#freeSlots.length;
  }

  get recurrent(): boolean {
    return this.#caches.some(({ recurrent }) => recurrent);
  }

  get narrows(): boolean {
    return !this.recurrent;
  }

  take(level: number): SequenceCaches | null {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) return null;
    this.#caches.forEach(({ shape, recurrent }, index) => {
      if (recurrent) slot.caches[index]!.fill(0, 0, elementsOf(shape(level, this.#options.capacity)));
    });
    return new ArrayCaches(slot, {
      narrow: (caches, from, to, tokens) => this.#narrow(caches, from, to, tokens),
      release: (caches) => this.#release(caches),
    });
  }

  seat(lane: number, caches: SequenceCaches | null): void {
    const occupant = caches as ArrayCaches | null;
    if (this.#occupants[lane] === occupant) return;
    this.#binding.input(laneArrayName(lane), occupant?.slot.whole ?? this.#nothing);
    this.#occupants[lane] = occupant;
  }

  async run({ rows, logits }: StepSize, signal?: AbortSignal): Promise<Float32Array> {
    const { vocabSize } = this.#options.plan.config;
    if (this.#logits.length < logits * vocabSize) {
      this.#logits = new Float32Array(logits * vocabSize);
      for (const [key, tensor] of this.#tensors) {
        if (!key.startsWith("logits ")) continue;
        tensor.close();
        this.#tensors.delete(key);
      }
    }
    const { inputs } = this;
    this.#countRows();
    await this.#binding
      .input("tokens", this.#view("tokens", rows, inputs.tokens))
      .input("logit_rows", this.#view("logit_rows", logits, inputs.logitRows))
      .output("logits", this.#logitsView(logits))
      .run(signal);
    return this.#logits;
  }

  close(): void {
    for (const tensor of this.#tensors.values()) tensor.close();
  }

  #countRows(): void {
    const { laneRows, laneLevels } = this.inputs;
    const rowsUpTo = this.#rowsUpTo.fill(0n);
    laneRows.forEach((rows, lane) => rowsUpTo[Number(laneLevels[lane])]! += rows);
    for (let level = 1; level < rowsUpTo.length; level++) rowsUpTo[level]! += rowsUpTo[level - 1]!;
  }

  #narrow({ slot }: ArrayCaches, from: number, to: number, tokens: number): void {
    const { capacity } = this.#options;
    for (const [index, { shape, keys }] of this.#caches.entries()) {
      const [, heads, , fromWidth] = shape(from, capacity) as [number, number, number, number];
      const toWidth = shape(to, capacity)[3]!;
      if (toWidth === fromWidth) continue;
      const sideBySide = keys ? CACHE_TOKENS : 1;
      narrowCache(slot.caches[index]!, { heads, capacity, tokens, sideBySide, from: fromWidth, to: toWidth });
    }
  }

  #release(caches: ArrayCaches): void {
    this.#occupants.forEach((occupant, lane) => {
      if (occupant === caches) this.seat(lane, null);
    });
    this.#freeSlots.push(caches.slot);
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

class ArrayCaches implements SequenceCaches {
  constructor(
    readonly slot: Slot,
    readonly owner: {
      narrow(caches: ArrayCaches, from: number, to: number, tokens: number): void;
      release(caches: ArrayCaches): void;
    },
  ) {}
  narrow(from: number, to: number, tokens: number): void {
    this.owner.narrow(this, from, to, tokens);
  }
  release(): void {
    this.owner.release(this);
  }
}
