import type { Block } from "../models/description.ts";

/** Layers `start` to `end`, the last excluded, over which block influence is measured as one. */
export interface InfluenceGroup {
  readonly start: number;
  readonly end: number;
}

/**
 * Which layers share a score of block influence (uniql.md §4).
 *
 * A layer of several blocks stands for itself, and so does every layer of a model that has only mixers. Where a layer is a
 * single block, mixers go with the MLP that follows them, as they do inside a layer of other models: `M -` or `M * -` of
 * Nemotron-H.
 */
export function influenceGroups(layers: readonly (readonly Pick<Block, "kind">[])[]): InfluenceGroup[] {
  const isMlp = ({ kind }: Pick<Block, "kind">) => kind === "mlp" || kind === "gatedMlp";
  const single = layers.every((blocks) => blocks.length === 1) && layers.some(([block]) => isMlp(block!));
  if (!single) return layers.map((_, start) => ({ start, end: start + 1 }));
  const groups: InfluenceGroup[] = [];
  let start = 0;
  layers.forEach(([block], layer) => {
    if (!isMlp(block!) && layer + 1 < layers.length) return;
    groups.push({ start, end: layer + 1 });
    start = layer + 1;
  });
  return groups;
}
