import type { ModelDescription } from "../description.ts";
import { denseDecoderFields, describeDenseDecoder, hiddenAct } from "./dense_decoder.ts";
import { z } from "zod";

/** Arcee's AFM: a Llama whose MLPs have no gate and square their ReLU. */
export const ArceeConfig = z.looseObject({
  ...denseDecoderFields,
  hidden_act: hiddenAct("relu2"),
  attention_bias: z.literal(false, { error: "attention with biases is not supported" }).default(false),
  mlp_bias: z.literal(false, { error: "MLPs with biases are not supported" }).default(false),
}).transform((raw): ModelDescription => describeDenseDecoder(raw, { family: "arcee", biases: [] }));
