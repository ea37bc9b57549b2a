import { ElementType, type GraphBuilder, type Value } from "../../onnx/mod.ts";
import { cachesOf } from "../caches.ts";
import type { BlockPlan, ModelPlan } from "../plan.ts";

/** Keys, values and states as our own operators on the CPU take them: one array per lane, written where it is. */
export interface LaneArrays {
  /** float32, one per lane: all caches of its sequence, see `arrayPlaces`. Keys and values are two halves a float. */
  readonly arrays: readonly Value[];
  /** int64 `[caches + 1]`: where each cache begins in every array, and where the last one ends. */
  readonly places: Value;
  /** The first of a block's caches, counted over all blocks. */
  firstOf(block: BlockPlan): number;
}

/** What the graph calls the array of a lane. */
export function laneArrayName(lane: number): string {
  return `lane_${lane}.caches`;
}

/** Adds the arrays of all lanes to the graph's inputs. */
export function laneArrays(graph: GraphBuilder, plan: ModelPlan, lanes: number): LaneArrays {
  const caches = cachesOf(plan);
  return {
    arrays: Array.from(
      { length: lanes },
      (_, lane) => graph.input(laneArrayName(lane), ElementType.float32, [`floats_${lane}`]),
    ),
    places: graph.input("cache_places", ElementType.int64, [caches.length + 1]),
    firstOf: ({ name }) => caches.findIndex(({ block }) => block === name),
  };
}
