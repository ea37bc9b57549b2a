import { ELEMENT_BYTES, ElementType } from "../onnx/mod.ts";
import { mambaOf, type ModelConfig } from "./description.ts";
import { cacheNames } from "./graph/cached_attention.ts";
import { IDLE_WIDTH, stateNames } from "./graph/cached_state_space.ts";
import type { BlockPlan, ModelPlan } from "./plan.ts";

/** An array that a sequence keeps from step to step: keys, values, or a state of a Mamba block. */
export interface Cache {
  /** Name of the block that it belongs to. */
  readonly block: string;
  /** What the graph calls it in a lane, before and after a step. Both names are bound to one tensor. */
  names(lane: number): { readonly past: string; readonly present: string };
  /** Its shape at a level, for a sequence of so many tokens at most. */
  shape(level: number, tokens: number): readonly number[];
  /** Its smallest shape, for a lane without a sequence. */
  readonly idle: readonly number[];
  /** It holds keys, which our own attention operator wants `CACHE_TOKENS` tokens side by side. */
  readonly keys: boolean;
  /** Its size does not depend on the tokens, it must start as zeros, and every step overwrites it. */
  readonly recurrent: boolean;
}

/** All caches of a model's sequences, in the order of its blocks. */
export function cachesOf({ config, layers }: ModelPlan): Cache[] {
  return layers.flat().flatMap((block) => blockCaches(config, block));
}

function blockCaches(config: ModelConfig, block: BlockPlan): Cache[] {
  switch (block.kind) {
    case "attention": {
      const shape = (width: number, tokens: number) => [1, config.numKeyValueHeads, tokens, width];
      return ([["pastKey", "key"], ["pastValue", "value"]] as const).map(([past, present]) => ({
        block: block.name,
        names(lane) {
          const names = cacheNames(block, lane);
          return { past: names[past], present: names[present] };
        },
        shape: (level, tokens) => shape(block.widths[level]!, tokens),
        idle: shape(block.widths.at(-1)!, 1),
        keys: past === "pastKey",
        recurrent: false,
      }));
    }
    case "mamba": {
      const { numHeads, numGroups, convKernel } = mambaOf(config);
      const shapes = {
        convX: (width: number, _states: number) => [1, convKernel - 1, numHeads * width],
        convBc: (_width: number, states: number) => [1, convKernel - 1, 2 * numGroups * states],
        scan: (width: number, states: number) => [1, numHeads, states, width],
      };
      return (["convX", "convBc", "scan"] as const).map((part) => ({
        block: block.name,
        names: (lane) => stateNames(block, lane)[part],
        shape: (level) => shapes[part](block.widths[level]!, block.stateWidths[level]!),
        idle: shapes[part](IDLE_WIDTH, IDLE_WIDTH),
        keys: false,
        recurrent: true,
      }));
    }
    case "gatedMlp":
    case "mlp":
      return [];
    default:
      return block satisfies never;
  }
}

/** Floats of a line of the processor's cache, at which every cache of an array begins. */
const LINE_FLOATS = 16;

/** Halves in the place of a float. */
const HALVES = ELEMENT_BYTES[ElementType.float32] / ELEMENT_BYTES[ElementType.float16];

/**
 * Where the caches lie if a sequence has all of them in one array: each as large as the widest level needs it, on lines of
 * the processor's cache. States are floats, as they are summed up from step to step; keys and values are halves, which
 * take half of the memory and of the time to read it.
 *
 * @returns Floats before each cache, and of the whole array.
 */
export function arrayPlaces(caches: readonly Cache[], tokens: number): number[] {
  const places = [0];
  for (const { shape, recurrent } of caches) {
    const floats = elementsOf(shape(0, tokens)) / (recurrent ? 1 : HALVES);
    places.push(places.at(-1)! + Math.ceil(floats / LINE_FLOATS) * LINE_FLOATS);
  }
  return places;
}

/**
 * Moves the keys or values of a sequence together, so that a narrower cache finds its own in their places: the first
 * components of every head of every token stay, for they are what a narrower level would have kept.
 *
 * @param array Holds `[1, G, capacity, from]`, of which so many tokens are in use; afterwards `[1, G, capacity, to]`. With
 * tokens side by side it is `[1, G, capacity / sideBySide, width, sideBySide]`.
 */
export function narrowCache(
  array: Float32Array | Uint16Array,
  { heads, capacity, tokens, sideBySide, from, to }: {
    readonly heads: number;
    readonly capacity: number;
    readonly tokens: number;
    readonly sideBySide: number;
    readonly from: number;
    readonly to: number;
  },
): void {
  const [wide, narrow] = [from * sideBySide, to * sideBySide];
  for (let head = 0; head < heads; head++) {
    const first = head * capacity / sideBySide;
    const last = first + Math.ceil(tokens / sideBySide);
    for (let row = first; row < last; row++) array.copyWithin(row * narrow, row * wide, row * wide + narrow);
  }
}

/** Number of elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Numbers in keys and values per token of a sequence. */
export function cacheElementsPerToken(plan: ModelPlan, level: number): number {
  return countElements(cachesOf(plan).filter(({ recurrent }) => !recurrent), level);
}

/** Bytes of float32 states of a sequence, however long it is: those of convolutions and recurrences. */
export function stateBytesPerSequence(plan: ModelPlan, level: number): number {
  const states = cachesOf(plan).filter(({ recurrent }) => recurrent);
  return ELEMENT_BYTES[ElementType.float32] * countElements(states, level);
}

function countElements(caches: readonly Cache[], level: number): number {
  return caches.reduce((sum, { shape }) => sum + elementsOf(shape(level, 1)), 0);
}
