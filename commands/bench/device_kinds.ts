import type { Artefact } from "../../models/artefact.ts";
import { decoderGraph } from "../../models/graph/decoder.ts";
import { cacheCapacity } from "../../models/pools.ts";

/** What the nodes of a graph for a CUDA device are summed up under, and what they read. */
export interface DeviceKinds {
  /** Of a product, the operator and its matrix, such as `PrefixMatMul gate_up`; of others the operator. */
  kindOf(name: string, operator: string): string;
  /** Bytes of weights, keys and values that a kind's nodes read in a run of one step at rate 0; null if that is next to nothing. */
  bytesOf(label: string, kind: string): number | null;
}

/**
 * Kinds of nodes of an artefact's graph.
 *
 * @param context Tokens in every cache.
 */
export function deviceKinds(
  { plan, weights }: Pick<Artefact, "plan" | "weights">,
  { lanes, context }: { lanes: number; context: number },
): DeviceKinds {
  const { nodes, initializers } = decoderGraph(plan, weights(), {
    lanes,
    operators: "cuda",
    capacity: cacheCapacity(context),
  });
  const lengths = new Map(initializers.map(({ name, data }) => [name, data.length]));
  const matrixOf = (inputs: readonly string[]) =>
    inputs.find((name) => name.endsWith(".codes"))?.replace(/\.codes$/, "").replace(/\.\d+$/, "").split(".").at(-1);
  const kinds = new Map<string, string>();
  const bytes = new Map<string, number>();
  nodes.forEach(({ op, inputs }, index) => {
    const matrix = op === "PrefixMatMul" ? matrixOf(inputs) : undefined;
    const kind = matrix === undefined ? op : `${op} ${matrix}`;
    kinds.set(`${op}_${index}`, kind);
    if (matrix === undefined) return;
    const read = inputs.reduce((sum, name) => sum + (lengths.get(name) ?? 0), 0);
    bytes.set(kind, (bytes.get(kind) ?? 0) + read);
  });
  const cacheBytes = plan.layers.flat().reduce(
    (sum, block) =>
      sum + (block.kind === "attention" ? 2 * 2 * plan.config.numKeyValueHeads * block.widths[0]! * context : 0),
    0,
  );
  return {
    kindOf: (name, operator) => kinds.get(name) ?? operator,
    bytesOf(label, kind) {
      if (kind !== "CachedAttention") return bytes.get(kind) ?? null;
      const sequences = /^decode of (\d+)/.exec(label)?.[1];
      return sequences === undefined ? null : Number(sequences) * cacheBytes;
    },
  };
}
