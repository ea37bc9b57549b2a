import type { Artefact } from "../../models/artefact.ts";
import { cacheElementBytes } from "../../models/decoder.ts";
import { poolBytes } from "../../models/pools.ts";
import type { ChosenDevice } from "../device.ts";
import { mebibytes } from "./say.ts";

/** What memory is taken for. */
export type MemoryUse = "weights" | "kv_cache" | "states" | "logits";

/** Bytes by use. */
export type MemoryPlan = Readonly<Record<MemoryUse, number>>;

export interface MemoryDemand {
  /** Of prompt and answer together, in a slot. */
  readonly maxTokens: number;
  readonly slots: number;
  readonly chosen: Pick<ChosenDevice, "device" | "operators">;
}

/** What all slots can come to take. Caches take theirs as their tokens come, but on a CUDA device all at once. */
export function memoryPlan(
  artefact: Pick<Artefact, "plan" | "levels" | "weightBytes">,
  { maxTokens, slots, chosen }: MemoryDemand,
): MemoryPlan {
  return {
    // ONNX Runtime's own operators on the CPU pack a copy of the mapped file; ours give the file's pages back.
    weights: artefact.weightBytes * (chosen.device === "cpu" && chosen.operators === null ? 2 : 1),
    // Our operators for CUDA warm up in a slot of their own.
    ...(chosen.device === "cuda"
      ? poolBytes(artefact.plan, { slots: slots + (chosen.operators === null ? 0 : 1), maxTokens })
      : {
        kv_cache: slots * maxTokens * artefact.levels[0]!.cacheElementsPerToken *
          cacheElementBytes(chosen.device, chosen.operators !== null),
        states: slots * artefact.levels[0]!.stateBytesPerSequence,
      }),
    logits: slots * artefact.plan.config.vocabSize * Float32Array.BYTES_PER_ELEMENT,
  };
}

/**
 * @param total Bytes that there are: of memory, or free on the CUDA device.
 * @throws {RangeError} If the plan's uses take more together; the message has each of them.
 */
export function checkMemory(plan: MemoryPlan, total: number): void {
  const needed = plan.weights + plan.kv_cache + plan.states + plan.logits;
  if (needed <= total) return;
  throw new RangeError(
    `the weights take ${mebibytes(plan.weights)}, caches up to ${mebibytes(plan.kv_cache)}, Mamba states ` +
      `${mebibytes(plan.states)}, logits ${mebibytes(plan.logits)}, and there are ${mebibytes(total)}; ` +
      "try fewer --slots or less --max-context",
  );
}
