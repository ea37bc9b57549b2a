import { z } from "zod";

/** Flags that preparing and comparing share. The shapes are Llamas with a tied head, small enough for any machine. */
export const Common = z.strictObject({
  shape: z.enum(["llama-3.2-1b", "smollm2-135m"]).default("llama-3.2-1b").describe("Dimensions of everyone's model"),
  blockSize: z.enum(["32", "64", "128"]).default("32").describe(
    "Weights of Espalier's that share a scale; the peers' blocks are of 32",
  ),
  folder: z.string().default("cache/peers").describe("Where the peers and the models are"),
});
