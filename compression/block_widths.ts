import { type BlockWidths, fullWidths } from "../models/block_tensors.ts";
import type { Block, ModelConfig } from "../models/description.ts";
import type { BlockSize } from "../models/int4.ts";
import { keptWidth, quantaFor } from "../models/widths.ts";
import { methodOf } from "./blocks/mod.ts";
import { layerRates, uniformRates } from "./layer_rates.ts";
import type { Recipe } from "./recipe.ts";

/**
 * Kept widths of every block at every rate, `[layer][block]`.
 *
 * The blocks of a layer share its influence score, so they are cut alike, and so are both axes of a block that has two
 * (uniql.md §4).
 *
 * @param influence One score per layer.
 */
export function blockWidths(
  config: ModelConfig,
  layers: readonly (readonly Block[])[],
  influence: readonly number[],
  { recipe, blockSize, rates }: {
    recipe: Pick<Recipe, "layerRates" | "influenceTemperature">;
    blockSize: BlockSize;
    rates: readonly number[];
  },
): BlockWidths[][] {
  const quanta = quantaFor({ ...config, blockSize });
  const scores = layers.flatMap((blocks, layer) => blocks.map(() => influence[layer]!));
  const byLevel = rates.map((rate) =>
    recipe.layerRates === "uniform"
      ? uniformRates(scores.length, rate)
      : layerRates(scores, rate, recipe.influenceTemperature)
  );
  let module = 0;
  return layers.map((blocks) =>
    blocks.map(({ kind }): BlockWidths => {
      const at = module++;
      const quantum = methodOf(kind).quanta(quanta);
      const full = fullWidths(config, kind);
      const kept = (axis: readonly number[], quantum: number) =>
        byLevel.map((rates) => keptWidth(axis[0]!, rates[at]!, quantum));
      const widths = kept(full.widths, quantum.widths);
      if (full.stateWidths === undefined || quantum.stateWidths === undefined) return { widths };
      return { widths, stateWidths: kept(full.stateWidths, quantum.stateWidths) };
    })
  );
}
