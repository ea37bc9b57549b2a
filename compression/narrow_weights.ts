import type { BlockWeights } from "../models/dense_block.ts";
import { mambaOf, type ModelConfig } from "../models/description.ts";
import type { Floats } from "../models/floats.ts";
import type { BlockPlan, MambaPlan } from "../models/plan.ts";
import { methodOf } from "./blocks/mod.ts";

/**
 * A block's packed weights at full width in which what a level drops is zero: in a dense session they do what the level's
 * prefix does.
 *
 * Zero rows are enough, since no activation makes something of zero, but for the convolution's bias of a Mamba block's
 * states. What its bias makes of channels is closed off by their gate.
 *
 * @param plan Of the block, with the widths of every level.
 */
export function narrowWeights(
  config: ModelConfig,
  plan: BlockPlan,
  weights: BlockWeights,
  level: number,
): BlockWeights {
  const packed = weights as unknown as Readonly<Record<string, Floats | null>>;
  const narrow: Record<string, Floats> = {};
  const chunks = plan.kind === "mamba" ? plan.inputChunks : plan.chunks;
  for (const { weight, bias, cut, stored, order } of methodOf(plan.kind).projections) {
    if (cut !== "rows") continue;
    const segments = stored(config, plan);
    const places = order(config, plan);
    const [matrix, vector] = [packed[weight]!.slice(), bias === undefined ? null : packed[bias]?.slice()];
    const { inFeatures } = segments[0]!;
    let start = 0;
    for (const [i, { outFeatures }] of segments.entries()) {
      const rows = places.slice(start, start += outFeatures);
      if (level <= chunks[i]!.level) continue;
      for (const row of rows) {
        matrix.fill(0, row * inFeatures, (row + 1) * inFeatures);
        vector?.fill(0, row, row + 1);
      }
    }
    narrow[weight] = matrix;
    if (vector) narrow[bias!] = vector;
  }
  if (plan.kind === "mamba" && weights.kind === "mamba" && weights.convBcBias !== null) {
    narrow["convBcBias"] = withoutStates(config, plan, weights.convBcBias, level);
  }
  return { ...weights, ...narrow };
}

/** `[2G, N]` with zeros for the states that a level drops. */
function withoutStates(config: ModelConfig, { stateWidths }: MambaPlan, bias: Floats, level: number): Floats {
  const { stateSize } = mambaOf(config);
  return bias.map((value, at) => at % stateSize < stateWidths[level]! ? value : 0);
}
