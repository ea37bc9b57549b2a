import type { Block, MambaConfig, ModelConfig } from "../description.ts";
import { z } from "zod";

/** What Python writes for infinity: a bare word, which our reader turns into the number, or an object. */
const Infinite = z.union([z.literal(Infinity), z.object({ __float__: z.literal("Infinity") })])
  .transform(() => null);

/** Least and greatest Δ; null where there is no upper limit. */
export const TimeStepLimit = z.tuple([z.number().nonnegative(), z.union([z.number().positive(), Infinite])], {
  error: "wanted the least and the greatest time step",
}).refine(([min, max]) => max === null || min <= max, { error: "the least is above the greatest" });

export const NO_BIAS = z.literal(false, { error: "a bias here is not supported" }).default(false);
export const SILU = z.literal("silu", { error: 'only "silu" is supported' }).default("silu");

/** The numbers of the mixers under the names of one family's configuration, to name them in messages. */
export type MambaFieldNames = Readonly<Record<"numHeads" | "numGroups" | "convKernel", string>>;

/** What contradicts itself in a mixer's numbers, by field. */
export function mambaProblems({ numHeads, numGroups, convKernel }: MambaConfig, names: MambaFieldNames): string[] {
  const problems: string[] = [];
  if (numHeads % numGroups !== 0) {
    problems.push(`${names.numGroups}: ${numGroups} does not divide ${names.numHeads} ${numHeads}`);
  }
  if (convKernel < 2) problems.push(`${names.convKernel}: ${convKernel} taps are no convolution; wanted 2 or more`);
  return problems;
}

/** A model's numbers where it has neither attention nor MLPs. */
export const NO_ATTENTION_OR_MLP = {
  intermediateSize: 0,
  numAttentionHeads: 0,
  numKeyValueHeads: 0,
  headDim: 0,
  rope: { theta: 10_000, scaling: null, rotaryDim: 0 },
} satisfies Partial<ModelConfig>;

/**
 * A Mamba-2 mixer with transformers' tensor names.
 *
 * @param mixer Prefix of its tensors, such as `backbone.layers.3.mixer`.
 */
export function mambaBlock(
  norm: string,
  mixer: string,
  { convBias, skipPerChannel = false }: { convBias: boolean; skipPerChannel?: boolean },
): Block {
  return {
    kind: "mamba",
    norm,
    input: { weight: `${mixer}.in_proj.weight` },
    convolution: {
      weight: `${mixer}.conv1d.weight`,
      ...(convBias && { bias: `${mixer}.conv1d.bias` }),
    },
    aLog: `${mixer}.A_log`,
    skip: `${mixer}.D`,
    skipPerChannel,
    dtBias: `${mixer}.dt_bias`,
    gatedNorm: `${mixer}.norm.weight`,
    output: { weight: `${mixer}.out_proj.weight` },
  };
}
