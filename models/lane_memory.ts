import { type Binding, type BoundTensor, ElementType, type Runtime, type Session } from "../onnx/mod.ts";
import { type Cache, cachesOf, elementsOf, narrowCache } from "./caches.ts";
import {
  checkTokens,
  type DecoderMemory,
  type SequenceCaches,
  type StepInputs,
  type StepSize,
} from "./decoder_memory.ts";
import type { LanePlace, SharedMemory, TensorMemory } from "./lane_place.ts";
import type { ModelPlan } from "./plan.ts";

export interface LaneMemoryOptions {
  readonly place: LanePlace;
  readonly plan: ModelPlan;
  readonly lanes: number;
  readonly maxRows: number;
  /** Tokens of a cache. */
  readonly capacity: number;
}

/** Cache memory of one sequence, used again and again: one for every cache, as large as any level needs it. */
type Slot = readonly TensorMemory[];

/**
 * For stock operators: every sequence has caches of the width of its level, each of which is bound to the lane that it sits
 * in.
 */
export class LaneMemory implements DecoderMemory {
  readonly inputs: StepInputs;
  readonly #runtime: Runtime;
  readonly #options: LaneMemoryOptions;
  readonly #binding: Binding;
  readonly #caches: readonly Cache[];
  readonly #freeSlots: Slot[];
  /** The smallest caches, for lanes without a sequence. */
  readonly #idleCaches: readonly (readonly BoundTensor[])[];
  readonly #occupants: (LaneCaches | null | undefined)[];
  readonly #tensors = new Map<string, BoundTensor>();
  readonly #memory: TensorMemory[] = [];
  readonly #shared: Readonly<Record<"tokens" | "positions" | "logit_rows", SharedMemory>>;
  #logits: { readonly rows: number; readonly memory: SharedMemory };

  constructor(runtime: Runtime, session: Session, options: LaneMemoryOptions) {
    this.#runtime = runtime;
    this.#options = options;
    this.#binding = session.bind();
    const { place, plan, lanes, maxRows, capacity } = options;
    const { int32, int64 } = ElementType;
    this.#caches = cachesOf(plan);
    const cache = (shape: readonly number[]) => this.#keep(place.cache(elementsOf(shape)));
    this.#freeSlots = Array.from({ length: lanes }, () => this.#caches.map(({ shape }) => cache(shape(0, capacity))));
    this.#idleCaches = Array.from(
      { length: lanes },
      () => this.#caches.map(({ idle }) => cache(idle).tensor(idle)),
    );
    const shared = () => this.#keep(place.shared(int64, maxRows));
    this.#shared = { tokens: shared(), positions: shared(), logit_rows: shared() };
    this.#occupants = Array.from({ length: lanes }, () => undefined);
    this.inputs = {
      tokens: new BigInt64Array(this.#shared.tokens.buffer),
      positions: new BigInt64Array(this.#shared.positions.buffer),
      logitRows: new BigInt64Array(this.#shared.logit_rows.buffer),
      laneRows: new BigInt64Array(lanes),
      laneLevels: new BigInt64Array(lanes),
      laneLengths: new Int32Array(lanes),
    };
    this.#logits = this.#makeLogits(lanes);
    // On the CPU wherever steps run: sizes follow from them.
    const { laneRows, laneLevels, laneLengths } = this.inputs;
    this.#binding
      .input("lane_rows", this.#tensor("lane_rows", () => runtime.tensor(int64, [lanes], laneRows)))
      .input("lane_levels", this.#tensor("lane_levels", () => runtime.tensor(int64, [lanes], laneLevels)))
      .input("lane_lengths", this.#tensor("lane_lengths", () => runtime.tensor(int32, [lanes], laneLengths)));
  }

  get freeSlots(): number {
    return this.#freeSlots.length;
  }

  /** The processor looks through the logits itself. */
  readonly likeliest = null;

  get recurrent(): boolean {
    return this.#caches.some(({ recurrent }) => recurrent);
  }

  get narrows(): boolean {
    return !this.recurrent && this.#options.place.reachable;
  }

  take(level: number): SequenceCaches | null {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) return null;
    const tensors = this.#caches.map(({ shape, recurrent }, index) => {
      const dimensions = shape(level, this.#options.capacity);
      const memory = slot[index]!;
      if (recurrent) this.#elements(memory).fill(0, 0, elementsOf(dimensions));
      return memory.tensor(dimensions);
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
    const { place, plan, maxRows } = this.#options;
    const { vocabSize } = plan.config;
    if (!place.reachable) checkTokens(this.inputs.tokens.subarray(0, rows), plan);
    if (this.#logits.rows < logits) {
      this.#logits = this.#makeLogits(Math.min(maxRows, Math.max(logits, 2 * this.#logits.rows)));
      for (const [key, tensor] of this.#tensors) {
        if (!key.startsWith("logits ")) continue;
        tensor.close();
        this.#tensors.delete(key);
      }
    }
    const { memory } = this.#logits;
    await this.#binding
      .input("tokens", this.#view("tokens", rows))
      .input("positions", this.#view("positions", rows))
      .input("logit_rows", this.#view("logit_rows", logits))
      .output("logits", this.#tensor(`logits ${logits}`, () => memory.tensor([logits, vocabSize])))
      .run(signal);
    return new Float32Array(memory.buffer);
  }

  close(): void {
    for (const tensor of [...this.#tensors.values(), ...this.#idleCaches.flat()]) tensor.close();
    for (const memory of this.#memory) memory.free();
  }

  #narrow(caches: LaneCaches, from: number, to: number, tokens: number): void {
    const { capacity } = this.#options;
    this.#unseat(caches);
    caches.tensors = this.#caches.map(({ shape }, index) => {
      const [, heads, , fromWidth] = shape(from, capacity) as [number, number, number, number];
      const dimensions = shape(to, capacity);
      const toWidth = dimensions[3]!;
      if (toWidth === fromWidth) return caches.tensors[index]!;
      caches.tensors[index]!.close();
      const memory = caches.slot[index]!;
      narrowCache(this.#elements(memory), {
        heads,
        capacity,
        tokens,
        sideBySide: 1,
        from: fromWidth,
        to: toWidth,
      });
      return memory.tensor(dimensions);
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

  /** The elements of a cache that the host reaches. */
  #elements({ buffer }: TensorMemory): Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> {
    if (buffer === null) throw new TypeError("Cannot reach a cache in a device's own memory");
    return this.#options.place.cacheType === ElementType.float16 ? new Uint16Array(buffer) : new Float32Array(buffer);
  }

  #view(name: "tokens" | "positions" | "logit_rows", length: number): BoundTensor {
    return this.#tensor(`${name} ${length}`, () => this.#shared[name].tensor([length]));
  }

  /** Earlier ones stay until the decoder is closed: somebody may be looking at them. */
  #makeLogits(rows: number): { rows: number; memory: SharedMemory } {
    const { place, plan } = this.#options;
    return { rows, memory: this.#keep(place.shared(ElementType.float32, rows * plan.config.vocabSize)) };
  }

  #keep<Memory extends TensorMemory>(memory: Memory): Memory {
    this.#memory.push(memory);
    return memory;
  }

  #tensor(key: string, make: () => BoundTensor): BoundTensor {
    let tensor = this.#tensors.get(key);
    if (tensor === undefined) this.#tensors.set(key, tensor = make());
    return tensor;
  }
}

class LaneCaches implements SequenceCaches {
  constructor(
    readonly slot: Slot,
    public tensors: readonly BoundTensor[],
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
