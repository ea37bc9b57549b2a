import type { Artefact } from "../../models/artefact.ts";
import type { Build } from "../../routes/mod.ts";
import { describeDevice } from "../device.ts";
import { type MemoryDemand, type MemoryPlan, weightsText } from "./memory_plan.ts";
import { mebibytes } from "./say.ts";

/** What is said at start of the model and what runs it: a line each. */
export function describeModel(
  artefact: Pick<Artefact, "name" | "plan" | "levels" | "weightBytes">,
  build: Build & { readonly memory: MemoryPlan },
  { maxTokens, slots, chosen }: Pick<MemoryDemand, "maxTokens" | "slots" | "chosen">,
): string[] {
  const { config } = artefact.plan;
  const levels = artefact.levels.map(({ pruningRate, keptParameters }) =>
    `${pruningRate} (${(keptParameters / 1e6).toFixed(1)} M)`
  );
  const { kv_cache: cache } = build.memory;
  const weights = weightsText(build.memory, artefact.weightBytes);
  const most = chosen.device === "cuda" ? "" : "up to ";
  const kept = chosen.device === "cuda" ? " copied there" : chosen.operators === null ? "" : " packed";
  return [
    `espalier ${build.version}`,
    `model ${artefact.name}: ${config.family}, ${config.numHiddenLayers} layers, vocabulary ${config.vocabSize}`,
    `pruning rates (parameters): ${levels.join(", ")}`,
    `${build.engine}, kernels ${build.kernels}, ${build.threads} threads`,
    describeDevice(build.device),
    `memory: weights ${weights}${kept}, caches ${most}${mebibytes(cache)} (${slots} x ${maxTokens} tokens)`,
  ];
}
