import type { Statistic } from "../models/dense_block.ts";
import type { ModelConfig } from "../models/description.ts";
import type { BlockPlan } from "../models/plan.ts";
import { methodOf } from "./blocks/mod.ts";
import { gramOf } from "./gram.ts";

/**
 * The Gram matrices that GPTQ takes as Hessians: of what each projection of the block reads, named `….gram`.
 *
 * @param plan Of the dense model.
 */
export function hessianStatistics(config: ModelConfig, plan: BlockPlan): Statistic {
  const widths = new Map(
    methodOf(plan.kind).projections.map(({ input, stored }) => [input, stored(config, plan)[0]!.inFeatures]),
  );
  return (graph, activation, value) => {
    const width = widths.get(activation);
    return width === undefined ? [] : [gramOf(`${activation}.gram`, graph, value, width)];
  };
}
