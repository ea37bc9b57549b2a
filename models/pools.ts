import { type Dimension, ELEMENT_BYTES, ElementType } from "../onnx/mod.ts";
import { elementsOf } from "./caches.ts";
import { mambaOf, type ModelConfig } from "./description.ts";
import { CACHE_TOKENS } from "./graph/cached_attention.ts";
import type { AttentionPlan, BlockPlan, MambaPlan, ModelPlan } from "./plan.ts";

/**
 * Keys, values or states of all sequences, in one array on a device: at full width, of which a sequence at a narrower level
 * uses the first components of every head. So nothing moves when a sequence narrows, and no address depends on what is served.
 */
export interface Pool {
  /** What the graph calls it before and after a step; both names are bound to one tensor. */
  readonly past: string;
  readonly present: string;
  readonly type: ElementType;
  /** @param slots Sequences. @param capacity Tokens of each. */
  shape<D extends Dimension>(slots: D, capacity: D): readonly (number | D)[];
  /** Every step overwrites it. */
  readonly recurrent: boolean;
}

/** All pools of a model, in the order of its blocks. */
export function poolsOf({ config, layers }: ModelPlan): Pool[] {
  return layers.flat().flatMap((block) => blockPools(config, block));
}

/** Tokens that a cache is made for: whole groups of those that lie side by side. */
export function cacheCapacity(maxTokens: number): number {
  return Math.ceil(maxTokens / CACHE_TOKENS) * CACHE_TOKENS;
}

/** Bytes of all pools, of keys and values and of states. */
export function poolBytes(
  plan: ModelPlan,
  { slots, maxTokens }: { slots: number; maxTokens: number },
): { kv_cache: number; states: number } {
  const bytes = (recurrent: boolean) =>
    poolsOf(plan).filter((pool) => pool.recurrent === recurrent).reduce(
      (sum, { type, shape }) => sum + ELEMENT_BYTES[type] * elementsOf(shape(slots, cacheCapacity(maxTokens))),
      0,
    );
  return { kv_cache: bytes(false), states: bytes(true) };
}

function blockPools(config: ModelConfig, block: BlockPlan): Pool[] {
  switch (block.kind) {
    case "attention":
      return attentionPools(config, block);
    case "mamba":
      return mambaPools(config, block);
    case "gatedMlp":
    case "mlp":
      return [];
    default:
      return block satisfies never;
  }
}

/** Keys and values `[slots, G, capacity, widest]`. */
export function attentionPools({ numKeyValueHeads }: ModelConfig, { name, widths }: AttentionPlan): Pool[] {
  return ["keys", "values"].map((part): Pool => ({
    ...namesOf(name, part),
    type: ElementType.float16,
    shape: (slots, capacity) => [slots, numKeyValueHeads, capacity, widths[0]!],
    recurrent: false,
  }));
}

/**
 * What the convolutions keep, `[slots, k − 1, H, P]` and `[slots, k − 1, 2G, N]`, and the recurrence, `[slots, H, N, P]`. A
 * sequence that begins takes them for zeros, whatever is there.
 */
export function mambaPools(config: ModelConfig, { name, widths, stateWidths }: MambaPlan): Pool[] {
  const { numHeads, numGroups, convKernel } = mambaOf(config);
  const [channels, states] = [widths[0]!, stateWidths[0]!];
  const shapes = {
    conv_x_state: [convKernel - 1, numHeads, channels],
    conv_bc_state: [convKernel - 1, 2 * numGroups, states],
    state: [numHeads, states, channels],
  };
  return Object.entries(shapes).map(([part, shape]): Pool => ({
    ...namesOf(name, part),
    type: ElementType.float32,
    shape: (slots) => [slots, ...shape],
    recurrent: true,
  }));
}

function namesOf(block: string, part: string): Pick<Pool, "past" | "present"> {
  return { past: `${block}.past_${part}`, present: `${block}.${part}` };
}
