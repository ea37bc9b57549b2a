import type { Floats } from "../../models/floats.ts";
import type { ModelPlan } from "../../models/plan.ts";
import { type Binding, ElementType, type Runtime, type Session, type Tensor } from "../../onnx/mod.ts";
import { AdamW } from "./adamw.ts";
import { type BatchShape, evaluationModel, trainingModel } from "./loss.ts";
import { ParameterLayout, trainedParameters } from "./parameters.ts";
import { type Batch, fillWindow } from "./windows.ts";

/** A model in training: its weights, AdamW's state, and the two graphs, which read the weights in place. */
export class Trainer implements Disposable {
  readonly layout: ParameterLayout;
  /** Flat, as `layout` says. */
  readonly weights: Floats;
  readonly optimizer: AdamW;
  /** The batch of the next step or evaluation. */
  readonly batch: Batch;
  readonly #shape: BatchShape;
  readonly #loss: Tensor<Floats>;
  readonly #training: Binding;
  readonly #evaluation: Binding;
  readonly #sessions: readonly Session[];

  private constructor(
    runtime: Runtime,
    { shape, layout, weights, gradient, optimizer, training, evaluation }: {
      shape: BatchShape;
      layout: ParameterLayout;
      weights: Floats;
      gradient: Floats;
      optimizer: AdamW;
      training: Session;
      evaluation: Session;
    },
  ) {
    this.layout = layout;
    this.weights = weights;
    this.optimizer = optimizer;
    this.#shape = shape;
    const rows = shape.sequences * shape.length;
    this.batch = { tokens: new BigInt64Array(rows), targets: new BigInt64Array(rows) };
    this.#loss = runtime.tensor(ElementType.float32, [], new Float32Array(1));
    const tensors = layout.tensors(runtime, weights);
    const tokens = runtime.tensor(ElementType.int64, [rows], this.batch.tokens);
    const targets = runtime.tensor(ElementType.int64, [rows], this.batch.targets);
    const bind = (session: Session) => {
      const binding = session.bind().input("tokens", tokens).input("targets", targets).output("loss", this.#loss);
      for (const [name, tensor] of tensors) binding.input(name, tensor);
      return binding;
    };
    this.#training = bind(training);
    for (const [name, tensor] of layout.tensors(runtime, gradient)) this.#training.output(`gradient.${name}`, tensor);
    this.#evaluation = bind(evaluation);
    this.#sessions = [training, evaluation];
  }

  /** @param initialize Gives the weights to start from. */
  static async open(
    runtime: Runtime,
    { plan, shape, threads, initialize }: {
      plan: ModelPlan;
      shape: BatchShape;
      threads: number;
      initialize: (layout: ParameterLayout) => Floats;
    },
  ): Promise<Trainer> {
    const layout = new ParameterLayout(trainedParameters(plan));
    const weights = initialize(layout);
    const gradient = new Float32Array(layout.length);
    const { decayEnd } = layout;
    return new Trainer(runtime, {
      shape,
      layout,
      weights,
      gradient,
      optimizer: await AdamW.open(runtime, { weights, gradient, decayEnd, threads }),
      training: await runtime.openSession({ model: trainingModel(plan, shape), threads }),
      evaluation: await runtime.openSession({ model: evaluationModel(plan, shape), threads }),
    });
  }

  /** Learns from `batch`. @returns Its loss before, in nats per token, and the gradient's norm. */
  async step(step: number, learningRate: number): Promise<{ loss: number; gradientNorm: number }> {
    await this.#training.run();
    const gradientNorm = await this.optimizer.step(step, learningRate);
    return { loss: this.#loss.data[0]!, gradientNorm };
  }

  /**
   * The mean loss over windows of a text, end to end, as many as make whole batches.
   *
   * @throws {RangeError} If the text is shorter than one batch.
   */
  async evaluate(tokens: Uint16Array): Promise<number> {
    const { sequences, length } = this.#shape;
    const batches = Math.floor((tokens.length - 1) / (sequences * length));
    if (batches === 0) {
      throw new RangeError(
        `Cannot evaluate on ${tokens.length} tokens: a batch takes ${sequences * length + 1}`,
      );
    }
    let sum = 0;
    for (let index = 0; index < batches; index++) {
      for (let sequence = 0; sequence < sequences; sequence++) {
        const at = sequence * length;
        fillWindow(tokens, index * sequences * length + at, length, this.batch, at);
      }
      await this.#evaluation.run();
      sum += this.#loss.data[0]!;
    }
    return sum / batches;
  }

  close(): void {
    for (const session of this.#sessions) session.close();
    this.optimizer.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
