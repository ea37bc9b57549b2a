import type { Block, ModelConfig } from "../models/description.ts";
import type { BlockSize } from "../models/int4.ts";
import { keptWidth, quantaFor } from "../models/widths.ts";
import { layerRates, uniformRates } from "./layer_rates.ts";
import type { Recipe } from "./recipe.ts";

/**
 * Kept widths of every block at every rate, `[layer][block][level]`.
 *
 * The blocks of a layer share its influence score, so they are cut alike (uniql.md §4).
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
): number[][][] {
  const quanta = quantaFor({ ...config, blockSize });
  const scores = layers.flatMap((blocks, layer) => blocks.map(() => influence[layer]!));
  const byLevel = rates.map((rate) =>
    recipe.layerRates === "uniform"
      ? uniformRates(scores.length, rate)
      : layerRates(scores, rate, recipe.influenceTemperature)
  );
  let module = 0;
  return layers.map((blocks) =>
    blocks.map((block) => {
      const [full, quantum] = block.kind === "attention"
        ? [config.headDim, quanta.head]
        : [config.intermediateSize, quanta.mlp];
      const at = module++;
      return byLevel.map((moduleRates) => keptWidth(full, moduleRates[at]!, quantum));
    })
  );
}
