import {
  type Binding,
  type CudaDevice,
  cudaDevice,
  type DeviceMemory,
  type DeviceTensor,
  ELEMENT_BYTES,
  ElementType,
  type PinnedMemory,
  type Runtime,
  type Session,
} from "../onnx/mod.ts";
import { elementsOf } from "./caches.ts";
import {
  checkTokens,
  type DecoderMemory,
  type SequenceCaches,
  type StepInputs,
  type StepSize,
} from "./decoder_memory.ts";
import type { ModelPlan } from "./plan.ts";
import { poolsOf } from "./pools.ts";

export interface PooledMemoryOptions {
  readonly plan: ModelPlan;
  readonly lanes: number;
  readonly maxRows: number;
  /** Tokens of a cache. */
  readonly capacity: number;
  /** Captures decode steps as CUDA graphs. */
  readonly capture: boolean;
}

/** Runs of a shape after which the runtime has all the memory that it takes: the second plans it, the third finds it. */
const WARM_UPS = 3;

/**
 * Memory of a CUDA device: caches in pools that are bound once, inputs and logits in page-locked memory of the host, which
 * the device reads and writes where they are.
 *
 * A step in which every lane that is not idle has one row, and logits of all are wanted, is a decode step: there is one
 * captured graph per number of such rows. Levels, lengths and slots are read from memory, so a graph serves every rate. All
 * other steps run node by node. Before the first of them, the largest steps and one of every graph have run in a slot that
 * no sequence ever gets: the runtime runs what it captures several times, and a sequence's states must not see that.
 */
export class PooledMemory implements DecoderMemory {
  readonly inputs: StepInputs;
  readonly recurrent: boolean;
  readonly #runtime: Runtime;
  readonly #device: CudaDevice;
  readonly #options: PooledMemoryOptions;
  readonly #binding: Binding;
  /** By rows; none without capturing. */
  readonly #decodeBindings: (Binding | undefined)[] = [];
  readonly #freeSlots: number[];
  readonly #spareSlot: number;
  readonly #laneSlots: BigInt64Array<ArrayBuffer>;
  readonly #memory: DeviceMemory[] = [];
  readonly #tensors = new Map<string, DeviceTensor>();
  readonly #pinned: Readonly<Record<InputName, PinnedMemory>>;
  readonly #laneLogits: Logits;
  /** For steps that want logits of more rows than there are lanes. */
  #manyLogits: Logits;
  #latest: Logits;

  private constructor(runtime: Runtime, session: Session, options: PooledMemoryOptions) {
    this.#runtime = runtime;
    this.#options = options;
    this.#device = cudaDevice();
    const { plan, lanes, maxRows, capacity } = options;
    const pools = poolsOf(plan);
    this.recurrent = pools.some(({ recurrent }) => recurrent);
    this.#spareSlot = lanes;
    this.#freeSlots = Array.from({ length: lanes }, (_, index) => lanes - 1 - index);

    const pinned = (count: number, type: ElementType) => this.#pin(count * ELEMENT_BYTES[type]);
    const { int64, int32 } = ElementType;
    this.#pinned = {
      tokens: pinned(maxRows, int64),
      positions: pinned(maxRows, int64),
      logit_rows: pinned(maxRows, int64),
      lane_rows: pinned(lanes, int64),
      lane_levels: pinned(lanes, int64),
      lane_lengths: pinned(lanes, int32),
      lane_slots: pinned(lanes, int64),
    };
    const integers = (name: InputName) => new BigInt64Array(this.#pinned[name].buffer);
    this.inputs = {
      tokens: integers("tokens"),
      positions: integers("positions"),
      logitRows: integers("logit_rows"),
      laneRows: integers("lane_rows"),
      laneLevels: integers("lane_levels"),
      laneLengths: new Int32Array(this.#pinned.lane_lengths.buffer),
    };
    this.#laneSlots = integers("lane_slots");
    this.#laneLogits = this.#manyLogits = this.#latest = this.#makeLogits(lanes);

    for (const { past, type, shape } of pools) {
      const dimensions = shape(lanes + 1, capacity);
      const memory = this.#device.allocate(elementsOf(dimensions) * ELEMENT_BYTES[type]);
      this.#memory.push(memory);
      this.#tensors.set(past, runtime.deviceTensor(type, dimensions, memory));
    }
    const bind = (capturedGraph?: number) => {
      const binding = session.bind(capturedGraph === undefined ? {} : { capturedGraph });
      for (const { past, present } of pools) {
        binding.input(past, this.#tensors.get(past)!).output(present, this.#tensors.get(past)!);
      }
      return binding
        .input("lane_rows", this.#view("lane_rows", lanes))
        .input("lane_levels", this.#view("lane_levels", lanes))
        .input("lane_lengths", this.#view("lane_lengths", lanes))
        .input("lane_slots", this.#view("lane_slots", lanes));
    };
    this.#binding = bind();
    if (!options.capture) return;
    for (let rows = 1; rows <= Math.min(lanes, maxRows); rows++) {
      this.#decodeBindings[rows] = this.#bindRows(bind(rows), { lanes: rows, rows, logits: rows }, this.#laneLogits);
    }
  }

  /** Takes all memory and runs what later steps will. */
  static async open(runtime: Runtime, session: Session, options: PooledMemoryOptions): Promise<PooledMemory> {
    const memory = new PooledMemory(runtime, session, options);
    await memory.#warmUp();
    return memory;
  }

  get likeliest(): BigInt64Array<ArrayBuffer> {
    return this.#latest.likeliest;
  }

  get freeSlots(): number {
    return this.#freeSlots.length;
  }

  get narrows(): boolean {
    return !this.recurrent;
  }

  take(_level: number): SequenceCaches | null {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) return null;
    return new PooledCaches(slot, () => this.#freeSlots.push(slot));
  }

  seat(lane: number, caches: SequenceCaches | null): void {
    this.#laneSlots[lane] = BigInt((caches as PooledCaches | null)?.slot ?? this.#spareSlot);
  }

  async run(size: StepSize, signal?: AbortSignal): Promise<Float32Array> {
    const { lanes, rows, logits } = size;
    checkTokens(this.inputs.tokens.subarray(0, rows), this.#options.plan);
    const captured = rows === lanes && logits === lanes ? this.#decodeBindings[rows] : undefined;
    if (captured !== undefined) {
      this.#latest = this.#laneLogits;
      await captured.run(signal);
      return this.#laneLogits.data;
    }
    return await this.#runEagerly(size, signal);
  }

  close(): void {
    for (const tensor of this.#tensors.values()) tensor.close();
    for (const memory of this.#memory) memory.free();
  }

  async #runEagerly(size: StepSize, signal?: AbortSignal): Promise<Float32Array> {
    // A graph of no logits would be one of empty launches: the first row's are computed and left.
    if (size.logits === 0) this.inputs.logitRows[0] = 0n;
    const logits = Math.max(1, size.logits);
    if (logits > this.#manyLogits.rows) this.#manyLogits = this.#makeLogits(logits);
    const target = logits > this.#laneLogits.rows ? this.#manyLogits : this.#laneLogits;
    this.#latest = target;
    await this.#bindRows(this.#binding, { ...size, logits }, target).run(signal);
    return target.data;
  }

  /** Runs the largest step and every decode step, these until the runtime has captured them. */
  async #warmUp(): Promise<void> {
    const { lanes, maxRows, capacity } = this.#options;
    const mostRows = Math.min(maxRows, lanes * capacity);
    const full = Array.from({ length: Math.floor(mostRows / capacity) }, () => capacity);
    const largest = this.#fill([...full, ...(mostRows % capacity === 0 ? [] : [mostRows % capacity])]);
    const mostLogits = { ...largest, logits: Math.min(lanes, mostRows) };
    for (let run = 0; run < WARM_UPS; run++) await this.#runEagerly(mostLogits);
    for (let rows = Math.min(lanes, maxRows); rows >= 1; rows--) {
      const size = this.#fill(Array(rows).fill(1));
      for (let run = 0; run < WARM_UPS; run++) await this.#runEagerly(size);
      await this.#decodeBindings[rows]?.run();
    }
  }

  /** A step in the spare slot: so many rows of token 0 in every lane. */
  #fill(laneRows: readonly number[]): StepSize {
    let rows = 0;
    for (let lane = 0; lane < this.#options.lanes; lane++) {
      const count = laneRows[lane] ?? 0;
      this.inputs.laneRows[lane] = BigInt(count);
      this.inputs.laneLevels[lane] = 0n;
      this.inputs.laneLengths[lane] = Math.max(1, count);
      this.#laneSlots[lane] = BigInt(this.#spareSlot);
      for (let position = 0; position < count; position++, rows++) {
        this.inputs.tokens[rows] = 0n;
        this.inputs.positions[rows] = BigInt(position);
        this.inputs.logitRows[rows] = BigInt(rows);
      }
    }
    return { lanes: laneRows.length, rows, logits: laneRows.length };
  }

  #bindRows(binding: Binding, { rows, logits }: StepSize, target: Logits): Binding {
    return binding
      .input("tokens", this.#view("tokens", rows))
      .input("positions", this.#view("positions", rows))
      .input("logit_rows", this.#view("logit_rows", logits))
      .output("logits", target.tensor(logits))
      .output("likeliest", target.likeliestTensor(logits));
  }

  /** The first so many numbers of an input. */
  #view(name: InputName, length: number): DeviceTensor {
    const type = name === "lane_lengths" ? ElementType.int32 : ElementType.int64;
    return this.#tensor(
      `${name} ${length}`,
      () => this.#runtime.deviceTensor(type, [length], this.#pinned[name]),
    );
  }

  #makeLogits(rows: number): Logits {
    const { vocabSize } = this.#options.plan.config;
    // Earlier ones stay until the decoder is closed: somebody may be looking at them.
    const memory = this.#pin(rows * vocabSize * ELEMENT_BYTES[ElementType.float32]);
    const likeliest = this.#pin(rows * ELEMENT_BYTES[ElementType.int64]);
    const generation = this.#memory.length;
    return {
      rows,
      data: new Float32Array(memory.buffer),
      likeliest: new BigInt64Array(likeliest.buffer),
      likeliestTensor: (count) =>
        this.#tensor(
          `likeliest ${generation} ${count}`,
          () => this.#runtime.deviceTensor(ElementType.int64, [count], likeliest),
        ),
      tensor: (count) =>
        this.#tensor(
          `logits ${generation} ${count}`,
          () => this.#runtime.deviceTensor(ElementType.float32, [count, vocabSize], memory),
        ),
    };
  }

  #pin(bytes: number): PinnedMemory {
    const memory = this.#device.allocatePinned(bytes);
    this.#memory.push(memory);
    return memory;
  }

  #tensor(key: string, make: () => DeviceTensor): DeviceTensor {
    let tensor = this.#tensors.get(key);
    if (tensor === undefined) this.#tensors.set(key, tensor = make());
    return tensor;
  }
}

type InputName =
  | "tokens"
  | "positions"
  | "logit_rows"
  | "lane_rows"
  | "lane_levels"
  | "lane_lengths"
  | "lane_slots";

/** Page-locked memory for the logits of so many rows. */
interface Logits {
  readonly rows: number;
  readonly data: Float32Array;
  /** The token of every row's greatest logit. */
  readonly likeliest: BigInt64Array<ArrayBuffer>;
  /** The first rows. */
  tensor(count: number): DeviceTensor;
  likeliestTensor(count: number): DeviceTensor;
}

/** A narrower level finds its components first in every head, so that there is nothing to move. */
class PooledCaches implements SequenceCaches {
  constructor(readonly slot: number, readonly release: () => void) {}
  narrow(): void {}
}
