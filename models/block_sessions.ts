import type { Runtime } from "../onnx/mod.ts";
import { DenseBlock, type Statistic } from "./dense_block.ts";
import type { BlockPlan, ModelPlan } from "./plan.ts";

/** One session for each kind of block, opened when the first of its kind comes and kept for all others. */
export class BlockSessions implements Disposable {
  readonly #runtime: Runtime;
  readonly #plan: ModelPlan;
  readonly #threads: number;
  readonly #statisticOf: (plan: BlockPlan) => Statistic | undefined;
  readonly #withOutput: boolean;
  readonly #open = new Map<BlockPlan["kind"], DenseBlock>();

  /**
   * @param statisticOf What the sessions of a kind add up.
   * @param withOutput See `DenseBlock.open`.
   */
  constructor({ runtime, plan, threads, statisticOf = () => undefined, withOutput = true }: {
    runtime: Runtime;
    plan: ModelPlan;
    threads: number;
    statisticOf?: (plan: BlockPlan) => Statistic | undefined;
    withOutput?: boolean;
  }) {
    this.#runtime = runtime;
    this.#plan = plan;
    this.#threads = threads;
    this.#statisticOf = statisticOf;
    this.#withOutput = withOutput;
  }

  async open(block: BlockPlan): Promise<DenseBlock> {
    let session = this.#open.get(block.kind);
    if (session === undefined) {
      const statistic = this.#statisticOf(block);
      session = await DenseBlock.open(this.#runtime, {
        plan: this.#plan,
        block,
        threads: this.#threads,
        withOutput: this.#withOutput,
        ...(statistic && { statistic }),
      });
      this.#open.set(block.kind, session);
    }
    return session;
  }

  [Symbol.dispose](): void {
    for (const session of this.#open.values()) session.close();
  }
}
