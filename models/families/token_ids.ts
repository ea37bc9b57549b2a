import type { ModelConfig } from "../description.ts";
import { z } from "zod";

const TokenId = z.int().nonnegative();

/** The vocabulary's size and its special tokens. */
export const tokenFields = {
  vocab_size: z.int().positive(),
  bos_token_id: TokenId.nullish(),
  eos_token_id: z.union([TokenId, z.array(TokenId)], { error: "wanted a token id or a list of them" }).nullish(),
};

export type TokenFields = z.output<z.ZodObject<typeof tokenFields>>;

/** The token ids of a configuration, and what is wrong with them, by field. */
export function tokenIdsOf(
  raw: TokenFields,
): Pick<ModelConfig, "bosTokenId" | "eosTokenIds"> & { problems: string[] } {
  const eosTokenIds = [...new Set([raw.eos_token_id ?? []].flat())];
  const ids = [["bos_token_id", raw.bos_token_id], ...eosTokenIds.map((id) => ["eos_token_id", id])] as const;
  return {
    bosTokenId: raw.bos_token_id ?? null,
    eosTokenIds,
    problems: ids.filter(([, id]) => typeof id === "number" && id >= raw.vocab_size)
      .map(([field, id]) => `${field}: ${id} is not below vocab_size ${raw.vocab_size}`),
  };
}
