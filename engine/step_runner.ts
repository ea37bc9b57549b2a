import type { Decoder } from "../models/decoder.ts";

/**
 * What the engine needs of a decoder. One step at a time; sequences are closed only between steps; the logits of a
 * step belong to the engine until the next one.
 */
export type StepRunner = Pick<
  Decoder,
  "maxRows" | "maxTokens" | "narrows" | "freeSlots" | "openSequence" | "step" | "likeliest"
>;
