import type { ModelDescription } from "../description.ts";
import { Count } from "./fields.ts";
import { denseDecoderFields, describeDenseDecoder } from "./dense_decoder.ts";
import { z } from "zod";

/** Mistral 7B from v0.2 on, and whatever else was saved as `MistralForCausalLM` with attention to all tokens. */
export const MistralConfig = z.looseObject({
  ...denseDecoderFields,
  /** transformers takes 4096 where there is no such field. */
  sliding_window: Count.nullable().default(4096),
}).refine(
  ({ sliding_window, max_position_embeddings }) => sliding_window === null || sliding_window >= max_position_embeddings,
  {
    path: ["sliding_window"],
    error: "wanted null or no less than max_position_embeddings; sliding windows are not supported",
  },
).transform((raw): ModelDescription => describeDenseDecoder(raw, { family: "mistral", biases: [] }));
