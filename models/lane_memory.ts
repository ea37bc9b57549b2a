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
import { laneArrayName } from "./graph/lane_arrays.ts";
import type { ModelPlan } from "./plan.ts";

export interface LaneMemoryOptions {
  readonly plan: ModelPlan;
  readonly lanes: number;
  readonly maxRows: number;
  /** Tokens of a cache. */
  readonly capacity: number;
  /**
   * The graph's operators are ours: they take all caches of a sequence as one array, and in it keys of `CACHE_TOKENS` tokens
   * side by side. Stock operators take and give every cache by itself.
   */
  readonly native: boolean;
}

/** Cache memory of one sequence, used again and again: every cache in its place in one array, see `arrayPlaces`. */
interface Slot {
  readonly whole: Float32Array<ArrayBuffer>;
  readonly caches: readonly Float32Array<ArrayBuffer>[];
}

/** What is bound to a lane: `present` is what a step makes of `past`, if the graph gives it. */
interface LaneNames {
  readonly past: string;
  readonly present: string | null;
}

/** Memory of the CPU: every sequence has caches of the width of its level, which are bound to the lane that it sits in. */
export class LaneMemory implements DecoderMemory {
  readonly inputs: StepInputs;
  readonly #runtime: Runtime;
  readonly #options: LaneMemoryOptions;
  readonly #binding: Binding;
  readonly #caches: readonly Cache[];
  readonly #freeSlots: Slot[];
  /** The smallest tensors that can be bound, for lanes without a sequence. */
  readonly #idle: readonly (readonly Tensor[])[];
  readonly #occupants: (LaneCaches | null | undefined)[];
  readonly #tensors = new Map<string, Tensor>();
  #logits: Float32Array<ArrayBuffer>;

  constructor(runtime: Runtime, session: Session, options: LaneMemoryOptions) {
    this.#runtime = runtime;
    this.#options = options;
    this.#binding = session.bind();
    const { plan, lanes, maxRows, capacity, native } = options;
    this.#caches = cachesOf(plan);
    const places = arrayPlaces(this.#caches, capacity);
    // Pages of a fresh array cost nothing until they are written, so slots take the memory that their tokens need.
    this.#freeSlots = Array.from({ length: lanes }, () => {
      const whole = alignedFloats(places.at(-1)!);
      // Keys and values fill a part of theirs as tokens come.
      if (this.#caches.every(({ recurrent }) => recurrent)) wishForHugePages(whole);
      return { whole, caches: this.#caches.map((_, index) => whole.subarray(places[index], places[index + 1])) };
    });
    const idleShapes = native ? [[0]] : this.#caches.map(({ idle }) => idle);
    this.#idle = Array.from(
      { length: lanes },
      () => idleShapes.map((shape) => this.#cacheTensor(shape, new Float32Array(elementsOf(shape)))),
    );
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
    const { int32, int64 } = ElementType;
    const { laneRows, laneLevels, laneLengths } = this.inputs;
    this.#binding
      .input("lane_rows", this.#tensor("lane_rows", () => runtime.tensor(int64, [lanes], laneRows)))
      .input("lane_levels", this.#tensor("lane_levels", () => runtime.tensor(int64, [lanes], laneLevels)))
      .input("lane_lengths", this.#tensor("lane_lengths", () => runtime.tensor(int32, [lanes], laneLengths)));
    if (!native) return;
    const begins = BigInt64Array.from(places, BigInt);
    this.#binding.input(
      "cache_places",
      this.#tensor("cache_places", () => runtime.tensor(int64, [places.length], begins)),
    );
  }

  get freeSlots(): number {
    return this.#freeSlots.length;
  }

  get recurrent(): boolean {
    return this.#caches.some(({ recurrent }) => recurrent);
  }

  take(level: number): SequenceCaches | null {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) return null;
    this.#caches.forEach(({ shape, recurrent }, index) => {
      if (recurrent) slot.caches[index]!.fill(0, 0, elementsOf(shape(level, this.#options.capacity)));
    });
    const tensors = this.#options.native
      ? [this.#cacheTensor([slot.whole.length], slot.whole)]
      : this.#caches.map((_, index) => this.#tensorOfCache(slot, index, level));
    return new LaneCaches(slot, tensors, {
      narrow: (caches, from, to, tokens) => this.#narrow(caches, from, to, tokens),
      release: (caches) => this.#release(caches),
    });
  }

  seat(lane: number, caches: SequenceCaches | null): void {
    const occupant = caches as LaneCaches | null;
    if (this.#occupants[lane] === occupant) return;
    const tensors = occupant?.tensors ?? this.#idle[lane]!;
    for (const [index, { past, present }] of this.#namesOf(lane).entries()) {
      this.#binding.input(past, tensors[index]!);
      if (present !== null) this.#binding.output(present, tensors[index]!);
    }
    this.#occupants[lane] = occupant;
  }

  async run({ rows, logits }: StepSize, signal?: AbortSignal): Promise<Float32Array> {
    const { vocabSize } = this.#options.plan.config;
    if (this.#logits.length < logits * vocabSize) {
      this.#logits = new Float32Array(logits * vocabSize);
      for (const [key, tensor] of this.#tensors) {
        if (key.startsWith("logits ")) (tensor.close(), this.#tensors.delete(key));
      }
    }
    const { inputs } = this;
    await this.#binding
      .input("tokens", this.#view("tokens", rows, inputs.tokens))
      .input("positions", this.#view("positions", rows, inputs.positions))
      .input("logit_rows", this.#view("logit_rows", logits, inputs.logitRows))
      .output("logits", this.#logitsView(logits))
      .run(signal);
    return this.#logits;
  }

  close(): void {
    for (const tensor of [...this.#tensors.values(), ...this.#idle.flat()]) tensor.close();
  }

  #namesOf(lane: number): LaneNames[] {
    return this.#options.native
      ? [{ past: laneArrayName(lane), present: null }]
      : this.#caches.map((cache) => cache.names(lane));
  }

  #narrow(caches: LaneCaches, from: number, to: number, tokens: number): void {
    const { capacity, native } = this.#options;
    this.#unseat(caches);
    for (const [index, { shape, keys }] of this.#caches.entries()) {
      const [, heads, , fromWidth] = shape(from, capacity) as [number, number, number, number];
      const toWidth = shape(to, capacity)[3]!;
      if (toWidth === fromWidth) continue;
      narrowCache(caches.slot.caches[index]!, {
        heads,
        capacity,
        tokens,
        sideBySide: keys && native ? CACHE_TOKENS : 1,
        from: fromWidth,
        to: toWidth,
      });
      if (native) continue;
      caches.tensors[index]!.close();
      caches.tensors[index] = this.#tensorOfCache(caches.slot, index, to);
    }
  }

  #tensorOfCache(slot: Slot, index: number, level: number): Tensor {
    const shape = this.#caches[index]!.shape(level, this.#options.capacity);
    return this.#cacheTensor(shape, slot.caches[index]!.subarray(0, elementsOf(shape)));
  }

  #unseat(caches: LaneCaches): void {
    this.#occupants.forEach((occupant, lane) => {
      if (occupant === caches) this.seat(lane, null);
    });
  }

  #release(caches: LaneCaches): void {
    this.#unseat(caches);
    for (const tensor of caches.tensors) tensor.close();
    this.#freeSlots.push(caches.slot);
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

class LaneCaches implements SequenceCaches {
  constructor(
    readonly slot: Slot,
    /** What is bound to the lane, in the order of its names. */
    readonly tensors: Tensor[],
    readonly owner: {
      narrow(caches: LaneCaches, from: number, to: number, tokens: number): void;
      release(caches: LaneCaches): void;
    },
  ) {}
  narrow(from: number, to: number, tokens: number): void {
    this.owner.narrow(this, from, to, tokens);
  }
  release(): void {
    this.owner.release(this);
  }
}
