import { attentionMethod } from "./attention.ts";
import { gatedMlpMethod } from "./gated_mlp.ts";
import { mambaMethod } from "./mamba.ts";
import type { BlockKind, BlockMethod } from "./method.ts";
import { mlpMethod } from "./mlp.ts";

/** How each kind of block is compressed. */
const METHODS: { readonly [Kind in BlockKind]: BlockMethod<Kind> } = {
  attention: attentionMethod,
  gatedMlp: gatedMlpMethod,
  mlp: mlpMethod,
  mamba: mambaMethod,
};

/**
 * How a kind of block is compressed. Types cannot tie the kinds of what it is handed to the kind that it was asked for by;
 * callers check with `checkSameKind`.
 */
export function methodOf(kind: BlockKind): BlockMethod {
  return METHODS[kind] as unknown as BlockMethod;
}

/** @throws {TypeError} If parts that belong to one block are of different kinds. */
export function checkSameKind(what: string, ...parts: readonly { readonly kind: BlockKind }[]): void {
  const kinds = new Set(parts.map(({ kind }) => kind));
  if (kinds.size > 1) throw new TypeError(`Cannot compress ${what}: its parts are of kinds ${[...kinds].join(", ")}`);
}
