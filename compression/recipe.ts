import { z } from "zod";
import type { ModelDescription } from "../models/description.ts";
import { supportsHadamard } from "./hadamard.ts";
import { ORDER_NAMES } from "./orders/mod.ts";

/** How a model is compressed. Every choice has a measured default; a recipe file names only what it changes. */
export const Recipe = z.strictObject({
  /** What the channels of every prunable axis are ordered by. */
  order: z.enum(ORDER_NAMES).default("importance"),
  /** How a global rate is shared out between blocks. */
  layerRates: z.enum(["block-influence", "uniform"]).default("block-influence"),
  /** ε of uniql.md §4: smaller spares influential blocks more. */
  influenceTemperature: z.number().positive().max(10).default(0.1),
  /** Which tokens of a window block influence looks at: the paper's expectation, or the reference code's last one. */
  influenceTokens: z.enum(["all", "last"]).default("all"),
  /** λ of the ridge leverage, on Gram matrices summed over 2048 tokens as in uniql.md §3.3. */
  ridgeLambda: z.number().positive().default(1),
  /**
   * Rotates the residual stream by a Hadamard matrix before quantization (uniql.md §6.2). Not given: where
   * `rotatesResidual` says that it helps.
   */
  hadamard: z.boolean().optional(),
  quantizer: z.enum(["gptq", "nearest"]).default("gptq"),
  /** Makes the columns of what is cut by columns equally large; see `columnFactors`. */
  balance: z.boolean().default(true),
  /**
   * Searches for each scale that makes the weighted error small, instead of one that just covers the greatest weight; see
   * `searchScale`.
   */
  scaleSearch: z.boolean().default(true),
  /**
   * How much all narrow rates together count beside the whole model in `nestedLeastSquares`, as a share; 0 leaves what stays
   * as it is.
   */
  narrowShare: z.number().min(0).lt(1).default(0.3),
  /**
   * Training before quantization, by which what is left of a model at narrow levels makes up for what they lack (uniql.md §5);
   * see `recover`.
   */
  recovery: z.strictObject({
    /** 0: none. */
    steps: z.int().min(0).max(1_000_000).default(0),
    /** Of a step, each at a level of its own. */
    sequences: z.int().min(1).max(1024).default(4),
    /** Tokens of each. */
    sequenceLength: z.int().min(8).max(32_768).default(256),
    /** Of what may be added to a matrix. */
    rank: z.int().min(1).max(1024).default(16),
    /** At its height. */
    learningRate: z.number().positive().max(1).default(1e-3),
  }).prefault({}),
});

export type Recipe = z.infer<typeof Recipe>;

/**
 * Whether a recipe rotates the residual stream of a model.
 *
 * By default it does wherever the description does not say that it hurts, as in UniQL: SmolLM2-135M at rates 0, 20 and 35 % has a perplexity of 21.5, 50.3 and
 * 86.1 with it and 21.7, 59.0 and 96.3 without (measured with GPTQ alone); on the small state-space models it changes less than 0.5 %.
 */
export function rotatesResidual(
  { hadamard }: Recipe,
  { config: { hiddenSize }, rotationHurts = false }: Pick<ModelDescription, "config" | "rotationHurts">,
): boolean {
  return hadamard ?? (!rotationHurts && supportsHadamard(hiddenSize));
}

/** @throws {SyntaxError} Naming every field that is unknown or out of range. */
export function parseRecipe(raw: unknown): Recipe {
  const parsed = Recipe.safeParse(raw);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".") || "recipe"}: ${message}`);
  throw new SyntaxError(`Cannot read the recipe:\n  ${problems.join("\n  ")}`);
}
