import type { ModelDescription } from "../description.ts";
import { denseDecoderFields, describeDenseDecoder } from "./dense_decoder.ts";
import { z } from "zod";

/** Llama 2 and 3, SmolLM2, TinyLlama, and whatever else was saved as `LlamaForCausalLM`. */
export const LlamaConfig = z.looseObject({
  ...denseDecoderFields,
  attention_bias: z.boolean().default(false),
  mlp_bias: z.literal(false, { error: "MLPs with biases are not supported" }).default(false),
}).transform((raw): ModelDescription =>
  describeDenseDecoder(raw, {
    family: "llama",
    biases: raw.attention_bias ? ["q_proj", "k_proj", "v_proj", "o_proj"] : [],
  })
);
