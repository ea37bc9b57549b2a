import type { Rope } from "../description.ts";
import { z } from "zod";

const Positive = z.number().positive();
/** Frequencies fall from pair to pair. */
const Theta = z.number().min(1);

/** The kinds of `rope_scaling` that are supported, by their name in the configuration. */
const Scaling = z.discriminatedUnion("rope_type", [
  z.object({ rope_type: z.literal("default") }).transform(() => null),
  z.object({ rope_type: z.literal("linear"), factor: Positive.min(1) })
    .transform(({ factor }) => ({ kind: "linear" as const, factor })),
  z.object({
    rope_type: z.literal("llama3"),
    factor: Positive.min(1),
    low_freq_factor: Positive,
    high_freq_factor: Positive,
    original_max_position_embeddings: z.int().positive(),
  }).refine((scaling) => scaling.high_freq_factor > scaling.low_freq_factor, {
    path: ["high_freq_factor"],
    error: "must be greater than low_freq_factor",
  }).transform((scaling) => ({
    kind: "llama3" as const,
    factor: scaling.factor,
    lowFreqFactor: scaling.low_freq_factor,
    highFreqFactor: scaling.high_freq_factor,
    originalMaxPositionEmbeddings: scaling.original_max_position_embeddings,
  })),
]);
const KINDS: readonly string[] = Scaling.options.map(({ in: { shape } }) => shape.rope_type.value);

/** Before `rope_type` the field was called `type`; where a file has both, transformers reads the newer one. */
const EitherSpelling = z.looseObject({ rope_type: z.string().optional(), type: z.string().optional() })
  .check(({ value, issues }) => {
    const field = value.rope_type === undefined ? "type" : "rope_type";
    if (KINDS.includes(value[field] ?? "default")) return;
    issues.push({ code: "custom", input: value, path: [field], message: 'wanted "default", "linear" or "llama3"' });
  })
  .transform(({ type, rope_type, ...rest }) => ({ ...rest, rope_type: rope_type ?? type ?? "default" }));

const KnownScaling = EitherSpelling.pipe(Scaling);

/**
 * The fields of a configuration that say how positions are encoded, in either spelling.
 *
 * @param rotaryFactor The share of a head that the family turns.
 */
function fieldsOf(rotaryFactor: number) {
  const Factor = z.literal(rotaryFactor, { error: `only ${rotaryFactor} is supported: RoPE on that share of a head` })
    .nullish();
  return {
    // transformers 4
    rope_theta: Theta.nullish(),
    rope_scaling: KnownScaling.nullish().transform((scaling) => scaling ?? null),
    partial_rotary_factor: Factor,
    // transformers 5: all in one object
    rope_parameters: z.intersection(
      z.object({ rope_theta: Theta.nullish(), partial_rotary_factor: Factor }),
      KnownScaling.transform((scaling) => ({ scaling })),
    ).nullish(),
  };
}

/** RoPE on whole heads. */
export const ropeFields = fieldsOf(1);

/** RoPE on the first half of every head. */
export const halfRopeFields = fieldsOf(0.5);

/** Where a configuration has both spellings the newer one counts; theta is 10000 where none is given. */
export function ropeOf(config: z.output<z.ZodObject<typeof ropeFields>>): Rope {
  const { rope_parameters: parameters, rope_theta: theta, rope_scaling: scaling } = config;
  return { theta: parameters?.rope_theta ?? theta ?? 10_000, scaling: parameters ? parameters.scaling : scaling };
}
