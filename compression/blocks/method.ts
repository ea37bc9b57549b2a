import type { BlockTensors } from "../../models/block_tensors.ts";
import type { BlockWeights, Statistic } from "../../models/dense_block.ts";
import type { Block, ModelConfig } from "../../models/description.ts";
import type { ManifestBlock } from "../../models/manifest.ts";
import type { BlockPlan, Matrix } from "../../models/plan.ts";
import type { Quanta } from "../../models/widths.ts";
import type { BlockOrder } from "../journal.ts";
import type { Known, WholeOrder } from "../orders/order.ts";

export type BlockKind = Block["kind"];

/** The member of a union of blocks that is of one kind. */
type OfKind<Union, Kind> = Extract<Union, { readonly kind: Kind }>;

/** What a block is ordered by; random numbers come from the seed. */
export interface OrderOptions extends Omit<Known, "random"> {
  readonly order: WholeOrder;
  readonly seed: number;
}

/** What is compressed the same way in every block: a matrix that is quantized and stored in segments. */
export interface Projection<Kind extends BlockKind = BlockKind> {
  /** Its name among the block's packed weights. */
  readonly weight: string;
  /** Its bias's name among them; null there in a block without one. */
  readonly bias?: string;
  /** The tapped activation that it reads, for the Hessian. */
  readonly input: string;
  /** Which of its axes is cut: outputs are rows. */
  readonly cut: "rows" | "columns";
  /** Its segments. */
  stored(config: ModelConfig, plan: OfKind<BlockPlan, Kind>): Matrix[];
  /** Packed rows or columns in the order of the segments. */
  order(config: ModelConfig, plan: OfKind<BlockPlan, Kind>): readonly number[];
}

/** What compression has to know about a kind of block. A new kind is one of these in the table of `mod.ts`. */
export interface BlockMethod<Kind extends BlockKind = BlockKind> {
  /** Names of the tensors that read the residual stream, `[…, D]`; of those that write it, `[D, …]`; of their biases. */
  readonly stream: {
    readonly readers: readonly string[];
    readonly writers: readonly string[];
    readonly biases: readonly string[];
  };
  readonly projections: readonly Projection<Kind>[];
  /** In what steps `widths` are cut, and `stateWidths` where there are such. */
  quanta(quanta: Quanta): { readonly widths: number; readonly stateWidths?: number };
  /** What `order` is made from; undefined where it needs no calibration. */
  orderStatistics(config: ModelConfig, order: WholeOrder): Statistic | undefined;
  /**
   * Orders the block's prunable axes.
   *
   * @param options With what `orderStatistics` added up.
   */
  order(block: OfKind<BlockTensors, Kind>, options: OrderOptions): Promise<OfKind<BlockOrder, Kind>>;
  /** The one of `orderStatistics` that `arrange` is made from, if there is such a step and it needs one. */
  arrangedBy?(order: WholeOrder): string | undefined;
  /**
   * Tensors that are rotated, not only ordered: the same function in another basis. Others have no such step.
   *
   * @param options With what was added up as `arrangedBy`, alone.
   */
  arrange?(block: OfKind<BlockTensors, Kind>, options: OrderOptions): Promise<OfKind<BlockTensors, Kind>>;
  /** @param block As `arrange` left it. */
  pack(
    config: ModelConfig,
    block: OfKind<BlockTensors, Kind>,
    order: OfKind<BlockOrder, Kind>,
  ): OfKind<BlockWeights, Kind>;
  /**
   * The same function at every level, easier to quantize: the columns that are cut become equally large (see
   * `columnFactors`), and where their inputs may be rotated inside a chunk, nothing sticks out of it.
   */
  balance(
    config: ModelConfig,
    plan: OfKind<BlockPlan, Kind>,
    weights: OfKind<BlockWeights, Kind>,
  ): OfKind<BlockWeights, Kind>;
  /** What of the order belongs into the manifest, where that is not all. */
  published?(order: OfKind<BlockOrder, Kind>): Partial<OfKind<ManifestBlock, Kind>>;
}
