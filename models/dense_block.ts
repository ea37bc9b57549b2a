import { type Binding, ElementType, type GraphBuilder, type Runtime, type Session, type Value } from "../onnx/mod.ts";
import type { Floats } from "./floats.ts";
import { denseBlockGraph, denseHeadGraph } from "./graph/dense.ts";
import { mambaOf, rotaryDimOf } from "./description.ts";
import {
  type MlpTensors,
  originalPairs,
  type PackedAttention,
  type PackedGatedMlp,
  type PackedMamba,
  pairPlaces,
} from "./layout.ts";
import { type BlockPlan, blockVectors, type ModelPlan, wholeBlock } from "./plan.ts";

/** A block's float32 weights, packed. `pairs` only where they are not in their original order. */
export type BlockWeights =
  & { readonly norm: Floats }
  & (
    | ({ readonly kind: "attention"; readonly pairs?: readonly (readonly number[])[] } & PackedAttention)
    | ({ readonly kind: "gatedMlp" } & PackedGatedMlp)
    | ({ readonly kind: "mlp" } & MlpTensors)
    | ({ readonly kind: "mamba" } & PackedMamba)
  );

/** The vector that `blockVectors` calls by this name, less the block's. @throws {RangeError} If the block has none such. */
export function blockVector(weights: BlockWeights, part: string): Floats {
  if (part === "norm") return weights.norm;
  const vectors: Readonly<Record<string, Floats | null>> = weights.kind !== "mamba" ? {} : {
    conv_x: weights.convX,
    conv_x_bias: weights.convXBias,
    conv_bc: weights.convBc,
    conv_bc_bias: weights.convBcBias,
    a_log: weights.aLog,
    dt_bias: weights.dtBias,
    skip: weights.skip,
    gated_norm: weights.gatedNorm,
  };
  const vector = vectors[part];
  if (vector === undefined || vector === null) {
    throw new RangeError(`Cannot find the vector "${part}" in a block of kind ${weights.kind}`);
  }
  return vector;
}

/** A sum that a block's graph keeps over all rows that it sees. */
export interface Accumulator {
  readonly name: string;
  readonly shape: readonly number[];
  /** What the rows of this run add. */
  readonly increment: Value;
}

/** What is to be added up of an activation; nothing of most. */
export type Statistic = (graph: GraphBuilder, activation: string, value: Value) => readonly Accumulator[];

/** One kind of residual block in float32, for whole sequences; weights come and go, the session stays. */
export class DenseBlock {
  readonly #runtime: Runtime;
  readonly #session: Session;
  readonly #binding: Binding;
  readonly #plan: ModelPlan;
  readonly #block: BlockPlan;
  /** Sums of the statistics since the last `resetStatistics`, by name. */
  readonly statistics: ReadonlyMap<string, Floats>;

  private constructor(
    runtime: Runtime,
    session: Session,
    plan: ModelPlan,
    block: BlockPlan,
    statistics: ReadonlyMap<string, readonly number[]>,
  ) {
    this.#runtime = runtime;
    this.#session = session;
    this.#binding = session.bind();
    this.#plan = plan;
    this.#block = block;
    this.statistics = new Map([...statistics].map(([name, shape]) => {
      const sum = new Float32Array(shape.reduce((product, size) => product * size, 1));
      const tensor = runtime.tensor(ElementType.float32, shape, sum);
      this.#binding.input(`${name}.before`, tensor).output(name, tensor); // added up in place
      return [name, sum];
    }));
  }

  /**
   * @param block Any block of the wanted kind; its biases must be those of all that `run` will be given.
   * @param statistic Adds up what a method wants to know about activations.
   * @param withOutput False for sessions that are asked for statistics alone: `run` then leaves its argument as it is.
   */
  static async open(
    runtime: Runtime,
    { plan, block, threads, statistic, withOutput = true }: {
      plan: ModelPlan;
      block: BlockPlan;
      threads: number;
      statistic?: Statistic;
      withOutput?: boolean;
    },
  ): Promise<DenseBlock> {
    const named = wholeBlock(plan.config, block, "block");
    const shapes = new Map<string, readonly number[]>();
    const taps = (graph: GraphBuilder, activation: string, value: Value) => {
      for (const { name, shape, increment } of statistic?.(graph, activation.replace(/^block\./, ""), value) ?? []) {
        shapes.set(name, shape);
        const before = graph.input(`${name}.before`, ElementType.float32, shape);
        graph.output(name, graph.op("Add", [before, increment]), ElementType.float32, shape);
      }
    };
    const model = denseBlockGraph(plan, named, { taps, withOutput });
    return new DenseBlock(runtime, await runtime.openSession({ model, threads }), plan, named, shapes);
  }

  /** Sets the weights of the next runs. */
  setWeights(weights: BlockWeights): void {
    const { config } = this.#plan;
    const { hiddenSize: D, headDim: K, numAttentionHeads: H, numKeyValueHeads: G, intermediateSize: F } = config;
    const float = (name: string, shape: readonly number[], data: Floats) =>
      this.#binding.input(name, this.#runtime.tensor(ElementType.float32, shape, data));
    for (const { name, length } of blockVectors(config, this.#block)) {
      float(name, [length], blockVector(weights, name.replace(/^block\./, "")));
    }
    switch (weights.kind) {
      case "attention": {
        float("block.qkv.0.weight", [(H + 2 * G) * K, D], weights.qkv);
        float("block.output.0.weight", [D, H * K], weights.output);
        if (weights.qkvBias !== null) float("block.qkv.0.bias", [(H + 2 * G) * K], weights.qkvBias);
        if (weights.outputBias !== null) float("block.output.0.bias", [D], weights.outputBias);
        const rotaryDim = rotaryDimOf(config);
        if (rotaryDim === 0) break;
        const pairs = (weights.pairs ?? originalPairs(config)).flatMap((head) =>
          pairPlaces({ rotaryDim, headDim: K }, head)
        );
        this.#binding.input(
          "block.pairs",
          this.#runtime.tensor(ElementType.int64, [G, K / 2], BigInt64Array.from(pairs, BigInt)),
        );
        break;
      }
      case "gatedMlp":
        float("block.gate_up.0.weight", [2 * F, D], weights.gateUp);
        float("block.down.0.weight", [D, F], weights.down);
        break;
      case "mlp":
        float("block.up.0.weight", [F, D], weights.up);
        float("block.down.0.weight", [D, F], weights.down);
        break;
      case "mamba": {
        const { numHeads, headDim } = mambaOf(config);
        float("block.input.0.weight", [weights.input.length / D, D], weights.input);
        float("block.output.0.weight", [D, numHeads * headDim], weights.output);
        break;
      }
      default:
        weights satisfies never;
    }
  }

  resetStatistics(): void {
    for (const sum of this.statistics.values()) sum.fill(0);
  }

  /**
   * Runs one whole sequence through the block.
   *
   * @param hidden `[T, D]`; overwritten with the result.
   * @param reference `[T, D]`, for a statistic that has such an input.
   */
  async run(hidden: Floats, reference?: Floats): Promise<void> {
    const { hiddenSize } = this.#plan.config;
    const rows = hidden.length / hiddenSize;
    using input = this.#runtime.tensor(ElementType.float32, [rows, hiddenSize], hidden);
    this.#binding.input("hidden", input);
    using beside = reference && this.#runtime.tensor(ElementType.float32, [rows, hiddenSize], reference);
    if (beside !== undefined) this.#binding.input("reference", beside);
    if (this.#block.kind === "attention" && rotaryDimOf(this.#plan.config) > 0) {
      const positions = BigInt64Array.from({ length: rows }, (_, row) => BigInt(row));
      this.#binding.input("positions", this.#runtime.tensor(ElementType.int64, [rows], positions));
    }
    if (!this.#session.outputNames.includes("output")) return await this.#binding.run();
    using output = this.#runtime.tensor(ElementType.float32, [rows, hiddenSize], new Float32Array(hidden.length));
    await this.#binding.output("output", output).run();
    hidden.set(output.data);
  }

  close(): void {
    this.#session.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The last norm and the output head in float32. */
export class DenseHead {
  readonly #runtime: Runtime;
  readonly #session: Session;
  readonly #binding: Binding;
  readonly #plan: ModelPlan;

  private constructor(runtime: Runtime, session: Session, plan: ModelPlan) {
    this.#runtime = runtime;
    this.#session = session;
    this.#binding = session.bind();
    this.#plan = plan;
  }

  /** @param weights The last norm's weight `[D]` and the head `[V, D]`. */
  static async open(
    runtime: Runtime,
    { plan, threads, norm, head }: { plan: ModelPlan; threads: number; norm: Floats; head: Floats },
  ): Promise<DenseHead> {
    const { hiddenSize, vocabSize, tieWordEmbeddings } = plan.config;
    const dense = new DenseHead(runtime, await runtime.openSession({ model: denseHeadGraph(plan), threads }), plan);
    dense.#binding
      .input("final_norm", runtime.tensor(ElementType.float32, [hiddenSize], norm))
      .input(
        `${tieWordEmbeddings ? "embedding" : "head"}.weight`,
        runtime.tensor(ElementType.float32, [vocabSize, hiddenSize], head),
      );
    return dense;
  }

  /** `[T, D]` → logits `[T, V]`. */
  async run(hidden: Floats): Promise<Floats> {
    const { hiddenSize, vocabSize } = this.#plan.config;
    const rows = hidden.length / hiddenSize;
    using input = this.#runtime.tensor(ElementType.float32, [rows, hiddenSize], hidden);
    using logits = this.#runtime.tensor(ElementType.float32, [rows, vocabSize], new Float32Array(rows * vocabSize));
    await this.#binding.input("hidden", input).output("logits", logits).run();
    return logits.data;
  }

  close(): void {
    this.#session.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
