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
  artefact: Pick<Artefact, "plan" | "levels" | "weightBytes" | "blockSize">,
  { maxTokens, slots, chosen }: MemoryDemand,
): MemoryPlan {
  return {
    weights: chosen.device === "cpu" && chosen.operators === null ? stockBytes(artefact) : artefact.weightBytes,
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
 * What ONNX Runtime's own operators on the CPU make of the weights, which is all that stays: the pages of the mapped file
 * are clean and can be given back, with our operators as with these. A block of b columns takes b/2 + 2 bytes in the file,
 * and packed its codes, its scale and a sum in float32, beside the float32 scales that it was packed from. (RssAnon of 1.30.0
 * on a Xeon, opened less before: 1052 MiB of 663 in blocks of 32, 715 of 608 in blocks of 128; this says 1032 and 700.)
 */
function stockBytes({ weightBytes, blockSize }: Pick<Artefact, "weightBytes" | "blockSize">): number {
  const codes = blockSize / 2;
  return Math.ceil(weightBytes * (codes + 12) / (codes + 2));
}

/**
 * @param file Bytes of the weights as they are stored.
 * @param total Bytes that there are: of memory, or free on the CUDA device.
 * @throws {RangeError} If the plan's uses take more together; the message has each of them.
 */
export function checkMemory(plan: MemoryPlan, { file, total }: { file: number; total: number }): void {
  const needed = plan.weights + plan.kv_cache + plan.states + plan.logits;
  if (needed <= total) return;
  throw new RangeError(
    `the weights take ${weightsText(plan, file)}, caches up to ${mebibytes(plan.kv_cache)}, Mamba states ` +
      `${mebibytes(plan.states)}, logits ${mebibytes(plan.logits)}, and there are ${mebibytes(total)}; ` +
      "try fewer --slots or less --max-context",
  );
}

/** What the weights take, and in what file they are where that is another number. */
export function weightsText({ weights }: Pick<MemoryPlan, "weights">, file: number): string {
  return weights === file ? mebibytes(weights) : `${mebibytes(weights)} (packed of a file of ${mebibytes(file)})`;
}
