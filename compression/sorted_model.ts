import type { LinearAlgebra } from "../kernels/matrix.ts";
import type { BlockWeights } from "../models/dense_block.ts";
import type { ModelDescription } from "../models/description.ts";
import type { Floats } from "../models/floats.ts";
import type { ModelPlan } from "../models/plan.ts";
import type { OrderOptions } from "./blocks/method.ts";
import { checkSameKind, methodOf } from "./blocks/mod.ts";
import type { BlockOrder } from "./journal.ts";
import { naming } from "./naming.ts";
import type { PreparedModel } from "./prepared_model.ts";
import { type Adapters, mergeAdapters } from "./recovery/adapters.ts";
import { namedWeights } from "./training/checkpoint_weights.ts";

/** A prepared model whose blocks are in sorted order: in float32, the same function until something is learnt. */
export class SortedModel {
  /** What recovery has learnt; null before it, and without it. */
  adapters: Adapters | null = null;
  readonly #algebra: LinearAlgebra;
  readonly #model: PreparedModel;
  readonly #description: ModelDescription;
  readonly #dense: ModelPlan;
  readonly #orderOf: (layer: number, index: number) => BlockOrder;
  readonly #optionsOf: (layer: number, index: number) => OrderOptions;

  /**
   * @param dense The plan of the uncut model.
   * @param orderOf The order of a block.
   * @param optionsOf What it was made by, and what the block is arranged by.
   */
  constructor({ algebra, model, description, dense, orderOf, optionsOf }: {
    algebra: LinearAlgebra;
    model: PreparedModel;
    description: ModelDescription;
    dense: ModelPlan;
    orderOf: (layer: number, index: number) => BlockOrder;
    optionsOf: (layer: number, index: number) => OrderOptions;
  }) {
    this.#algebra = algebra;
    this.#model = model;
    this.#description = description;
    this.#dense = dense;
    this.#orderOf = orderOf;
    this.#optionsOf = optionsOf;
  }

  /** The packed weights of a block. */
  async block(layer: number, index: number): Promise<BlockWeights> {
    const block = this.#description.layers[layer]![index]!;
    const order = this.#orderOf(layer, index);
    checkSameKind(`block ${index} of layer ${layer}`, block, order);
    const dense = this.#dense.layers[layer]![index]!;
    const method = methodOf(block.kind);
    const tensors = await this.#model.readBlock(block);
    const arranged = await naming(dense.name, () => method.arrange?.(tensors, this.#optionsOf(layer, index))) ??
      tensors;
    const packed = method.pack(this.#description.config, arranged, order);
    if (this.adapters === null) return packed;
    return await mergeAdapters(this.#algebra, packed, {
      config: this.#dense.config,
      block: dense,
      adapters: this.adapters,
    });
  }

  /** Of each attention block, by its name, the original rotary pair at each place of every key/value head. */
  pairs(): Map<string, readonly (readonly number[])[]> {
    const blocks = this.#dense.layers.flatMap((blocks, layer) =>
      blocks.map(({ name }, index) => ({ name, order: this.#orderOf(layer, index) }))
    );
    return new Map(blocks.flatMap(({ name, order }) => order.kind === "attention" ? [[name, order.pairs]] : []));
  }

  /** All weights, by the names that their graph gives them. */
  async weights(): Promise<Map<string, Floats>> {
    const outer: readonly (readonly [string, Floats | null])[] = [
      ["embedding.weight", await this.#model.readEmbedding()],
      ["final_norm", await this.#model.readFinalNorm()],
      ["head.weight", await this.#model.readHead()],
      ["head_rotation.weight", await this.#model.readHeadRotation()],
    ];
    const weights = new Map<string, Floats>();
    for (const [name, data] of outer) if (data !== null) weights.set(name, data);
    for (const [layer, blocks] of this.#dense.layers.entries()) {
      for (const [index, block] of blocks.entries()) {
        const named = namedWeights(this.#dense.config, block, await this.block(layer, index));
        for (const [name, data] of named) weights.set(name, data);
      }
    }
    return weights;
  }
}
