import type { Floats } from "../../models/floats.ts";
import { type Binding, ElementType, type Runtime, type Session, type Tensor } from "../../onnx/mod.ts";
import { AdamW, ADAMW_DEFAULTS } from "../training/adamw.ts";
import type { BatchShape } from "../training/loss.ts";
import { ParameterLayout, trainedParameters } from "../training/parameters.ts";
import { adapterParameters } from "./adapters.ts";
import { divergenceModel, type MaskedModel } from "./divergence.ts";

/** Small matrices near zero: nothing is gained by pulling them there. */
const SETTINGS = { ...ADAMW_DEFAULTS, weightDecay: 0 };

/** Adapters in training: their values, AdamW's state, and the graph, which reads all weights in place. */
export class AdapterTraining implements Disposable {
  readonly layout: ParameterLayout;
  /** Flat, as `layout` says. */
  readonly adapters: Floats;
  /** What the last step found, likewise. */
  readonly gradient: Floats;
  readonly optimizer: AdamW;
  /** The next step's sequences, one after the other. */
  readonly tokens: BigInt64Array<ArrayBuffer>;
  /** The level of each. */
  readonly levels: BigInt64Array<ArrayBuffer>;
  readonly #session: Session;
  readonly #binding: Binding;
  readonly #loss: Tensor<Floats>;

  private constructor(
    runtime: Runtime,
    { model, shape, layout, adapters, gradient, optimizer, session, weights }: {
      model: MaskedModel;
      shape: BatchShape;
      layout: ParameterLayout;
      adapters: Floats;
      gradient: Floats;
      optimizer: AdamW;
      session: Session;
      weights: ReadonlyMap<string, Floats>;
    },
  ) {
    this.layout = layout;
    this.adapters = adapters;
    this.gradient = gradient;
    this.optimizer = optimizer;
    this.#session = session;
    this.tokens = new BigInt64Array(shape.sequences * shape.length);
    this.levels = new BigInt64Array(shape.sequences);
    this.#loss = runtime.tensor(ElementType.float32, [], new Float32Array(1));
    this.#binding = session.bind()
      .input("tokens", runtime.tensor(ElementType.int64, [this.tokens.length], this.tokens))
      .input("levels", runtime.tensor(ElementType.int64, [this.levels.length], this.levels))
      .output("loss", this.#loss);
    for (const { name, shape } of trainedParameters(model.plan)) {
      this.#binding.input(name, runtime.tensor(ElementType.float32, shape, weights.get(name)!));
    }
    for (const [name, tensor] of layout.tensors(runtime, adapters)) this.#binding.input(name, tensor);
    for (const [name, tensor] of layout.tensors(runtime, gradient)) this.#binding.output(`gradient.${name}`, tensor);
  }

  /**
   * @param weights Every weight of the sorted model, by the name that its graph gives it.
   * @param initialize Gives the adapters to start from.
   */
  static async open(
    runtime: Runtime,
    { model, shape, threads, weights, initialize }: {
      model: MaskedModel;
      shape: BatchShape;
      threads: number;
      weights: ReadonlyMap<string, Floats>;
      initialize: (layout: ParameterLayout) => Floats;
    },
  ): Promise<AdapterTraining> {
    const layout = new ParameterLayout(adapterParameters(model.plan, model.rank));
    const adapters = initialize(layout);
    const gradient = new Float32Array(layout.length);
    return new AdapterTraining(runtime, {
      model,
      shape,
      layout,
      adapters,
      gradient,
      weights,
      optimizer: await AdamW.open(runtime, {
        weights: adapters,
        gradient,
        decayEnd: layout.decayEnd,
        threads,
        settings: SETTINGS,
      }),
      session: await runtime.openSession({ model: divergenceModel(model, shape), threads }),
    });
  }

  /** Learns from `tokens` at `levels`. @returns The divergence before, in nats per token. */
  async step(step: number, learningRate: number): Promise<number> {
    await this.#binding.run();
    await this.optimizer.step(step, learningRate);
    return this.#loss.data[0]!;
  }

  close(): void {
    this.#session.close();
    this.optimizer.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
