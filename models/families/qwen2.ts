import type { ModelDescription } from "../description.ts";
import { denseDecoderFields, describeDenseDecoder } from "./dense_decoder.ts";
import { z } from "zod";

const NO_SLIDING_WINDOW = "sliding windows are not supported";

/** Qwen2 and Qwen2.5: Llama with biases on q, k and v. UniQL found that rotating its residual stream loses. */
export const Qwen2Config = z.looseObject({
  ...denseDecoderFields,
  use_sliding_window: z.literal(false, { error: NO_SLIDING_WINDOW }).default(false),
  layer_types: z.array(z.literal("full_attention", { error: NO_SLIDING_WINDOW })).nullish(),
}).transform((raw): ModelDescription => ({
  ...describeDenseDecoder(raw, { family: "qwen2", biases: ["q_proj", "k_proj", "v_proj"] }),
  rotationHurts: true,
}));
