import { z } from "zod";

export const Count = z.int().positive();

/** Bounded: the description has an entry for each. */
export const LayerCount = Count.max(10_000);

/** What contradicts itself in the heads of attention, by field. */
export function attentionProblems(heads: number, keyValueHeads: number): string[] {
  if (heads % keyValueHeads === 0) return [];
  return [`num_key_value_heads: ${keyValueHeads} does not divide num_attention_heads ${heads}`];
}

/** @throws {RangeError} If there are problems; the message names them all. */
export function throwProblems(problems: readonly string[]): void {
  if (problems.length > 0) throw new RangeError(`Cannot use this configuration:\n  ${problems.join("\n  ")}`);
}
