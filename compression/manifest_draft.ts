import type { ManifestDraft } from "../models/artefact_writer.ts";
import { specOf } from "../models/block_tensors.ts";
import type { ManifestBlock } from "../models/manifest.ts";
import { PRUNING_RATES } from "../models/widths.ts";
import { blockWidths } from "./block_widths.ts";
import { checkSameKind, methodOf } from "./blocks/mod.ts";
import type { Job } from "./job.ts";
import type { Journal } from "./journal.ts";
import { rotatesResidual } from "./recipe.ts";

/**
 * What a job's artefact says of itself once every block has an order and an influence; perplexities are still open.
 *
 * @param madeWith What beside the job the artefact comes from.
 * @throws {TypeError} If the journal has an order of another kind than its block.
 */
export function manifestDraft(
  { checkpoint, name, blockSize, recipe, seed, calibration }: Job,
  { orders, influence }: Pick<Journal, "orders" | "influence">,
  madeWith: { checkpointSha256: string; linearAlgebra: string; onnxRuntime: string },
): ManifestDraft {
  const { description } = checkpoint;
  const { config } = description;
  const widths = blockWidths(config, description.layers, influence, { recipe, blockSize, rates: PRUNING_RATES });
  return {
    name,
    config: { ...config, eosTokenIds: [...config.eosTokenIds] },
    quantization: { bits: 4, blockSize },
    rotatedResidual: rotatesResidual(recipe, description),
    levels: PRUNING_RATES.map((pruningRate) => ({ pruningRate, perplexity: null })),
    layers: description.layers.map((blocks, layer) =>
      blocks.map((block, index) => {
        const order = orders[layer]![index]!;
        checkSameKind(`block ${index} of layer ${layer}`, block, order);
        const published = methodOf(block.kind).published?.(order) ?? order;
        return { ...specOf(block, widths[layer]![index]!), ...published } as ManifestBlock; // of the same kind
      })
    ),
    blockInfluence: influence.map((score) => [score]),
    provenance: {
      architecture: String(checkpoint.rawConfig["architectures"] ?? config.family),
      checkpointSha256: madeWith.checkpointSha256,
      recipe: { ...recipe, hadamard: rotatesResidual(recipe, description) },
      seed,
      calibration: { windows: calibration.windows.length, tokens: calibration.windows[0]!.length },
      linearAlgebra: madeWith.linearAlgebra,
      onnxRuntime: madeWith.onnxRuntime,
    },
  };
}
