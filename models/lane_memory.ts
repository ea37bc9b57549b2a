import { type Binding, ElementType, type Runtime, type Session, type Tensor } from "../onnx/mod.ts";
import { type Cache, cachesOf, elementsOf, narrowCache } from "./caches.ts";
import type { DecoderMemory, SequenceCaches, StepInputs, StepSize } from "./decoder_memory.ts";
import { CACHE_TOKENS } from "./graph/cached_attention.ts";
import type { ModelPlan } from "./plan.ts";

export interface LaneMemoryOptions {
  readonly plan: ModelPlan;
  readonly lanes: number;
  readonly maxRows: number;
  /** Tokens of a cache. */
  readonly capacity: number;
  /** Keys of `CACHE_TOKENS` tokens lie side by side, as our own operator wants them. */
  readonly sideBySide: boolean;
}

/** Cache memory of one sequence, used again and again: an array for every cache, as large as any level needs it. */
interface Slot {
  readonly arrays: readonly Float32Array<ArrayBuffer>[];
}

/** Memory of the CPU: every sequence has caches of the width of its level, which are bound to the lane that it sits in. */
export class LaneMemory implements DecoderMemory {
  readonly inputs: StepInputs;
  readonly #runtime: Runtime;
  readonly #options: LaneMemoryOptions;
  readonly #binding: Binding;
  readonly #caches: readonly Cache[];
  readonly #freeSlots: Slot[];
  /** The smallest caches, for lanes without a sequence. */
  readonly #idleCaches: readonly (readonly Tensor[])[];
  readonly #occupants: (LaneCaches | null | undefined)[];
  readonly #tensors = new Map<string, Tensor>();
  #logits: Float32Array<ArrayBuffer>;

  constructor(runtime: Runtime, session: Session, options: LaneMemoryOptions) {
    this.#runtime = runtime;
    this.#options = options;
    this.#binding = session.bind();
    const { plan, lanes, maxRows, capacity } = options;
    this.#caches = cachesOf(plan);
    // Pages of a fresh array cost nothing until they are written, so slots take the memory that their tokens need.
    this.#freeSlots = Array.from({ length: lanes }, () => ({
      arrays: this.#caches.map(({ shape }) => new Float32Array(elementsOf(shape(0, capacity)))),
    }));
    this.#idleCaches = Array.from(
      { length: lanes },
      () => this.#caches.map(({ idle }) => this.#cacheTensor(idle, new Float32Array(elementsOf(idle)))),
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
    const tensors = this.#caches.map(({ shape, recurrent }, index) => {
      const dimensions = shape(level, this.#options.capacity);
      const array = slot.arrays[index]!.subarray(0, elementsOf(dimensions));
      if (recurrent) array.fill(0);
      return this.#cacheTensor(dimensions, array);
    });
    return new LaneCaches(slot, tensors, {
      narrow: (caches, from, to, tokens) => this.#narrow(caches, from, to, tokens),
      release: (caches) => this.#release(caches),
    });
  }

  seat(lane: number, caches: SequenceCaches | null): void {
    const occupant = caches as LaneCaches | null;
    if (this.#occupants[lane] === occupant) return;
    const tensors = occupant?.tensors ?? this.#idleCaches[lane]!;
    this.#caches.forEach((cache, index) => {
      const { past, present } = cache.names(lane);
      this.#binding.input(past, tensors[index]!).output(present, tensors[index]!);
    });
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
    for (const tensor of [...this.#tensors.values(), ...this.#idleCaches.flat()]) tensor.close();
  }

  #narrow(caches: LaneCaches, from: number, to: number, tokens: number): void {
    const { capacity, sideBySide } = this.#options;
    this.#unseat(caches);
    caches.tensors = this.#caches.map(({ shape, keys }, index) => {
      const [, heads, , fromWidth] = shape(from, capacity) as [number, number, number, number];
      const dimensions = shape(to, capacity);
      const toWidth = dimensions[3]!;
      if (toWidth === fromWidth) return caches.tensors[index]!;
      caches.tensors[index]!.close();
      const array = caches.slot.arrays[index]!;
      narrowCache(array, {
        heads,
        capacity,
        tokens,
        sideBySide: keys && sideBySide ? CACHE_TOKENS : 1,
        from: fromWidth,
        to: toWidth,
      });
      return this.#cacheTensor(dimensions, array.subarray(0, elementsOf(dimensions)));
    });
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
    public tensors: readonly Tensor[],
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
