import { ABSENT, type GraphBuilder, type Node, type Value } from "../mod.ts";
import { ELEMENTWISE } from "./elementwise.ts";
import { LAYOUT } from "./layout.ts";
import { MATRIX } from "./matrix.ts";
import { REDUCTION } from "./reduction.ts";
import type { Rule } from "./rule.ts";

/** Rules by operator; those outside ONNX itself have their domain before their name. */
const RULES: ReadonlyMap<string, Rule> = new Map(
  [ELEMENTWISE, MATRIX, LAYOUT, REDUCTION].flatMap((rules) => Object.entries(rules)),
);

/**
 * Adds the nodes that compute the gradients of a loss: reverse-mode differentiation of the graph so far.
 *
 * @param loss A float32 scalar (rank 0).
 * @param wrt Float32 values of the graph that the loss depends on: inputs, constants, or anything between.
 * @returns The gradient of the loss with respect to each of them, in its shape.
 * @throws {RangeError} If an operator between them has no rule, or the loss does not depend on a value; it names all
 * such operators or values.
 */
export function gradients(graph: GraphBuilder, loss: Value, wrt: readonly Value[]): Value[] {
  const nodes = [...graph.nodes];
  const dependent = dependentOn(nodes, wrt);
  const contributions = new Map<string, Value[]>([[loss, [graph.floats(1)]]]);
  const gradientOf = (value: string) => {
    const parts = contributions.get(value);
    if (parts === undefined || parts.length === 1) return parts?.[0];
    const sum = graph.op("Sum", parts);
    contributions.set(value, [sum]);
    return sum;
  };

  const withoutRule = new Set<string>();
  for (const node of nodes.reverse()) {
    if (!node.outputs.some((output) => contributions.has(output) && dependent.has(output))) continue;
    const operator = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
    const rule = RULES.get(operator);
    if (rule === undefined) {
      withoutRule.add(operator);
      for (const input of node.inputs) contributions.set(input, [loss]); // to find what else is missing behind it
      continue;
    }
    const flows = rule({
      graph,
      node,
      inputs: node.inputs as readonly Value[],
      outputs: node.outputs as readonly Value[],
      gradients: node.outputs.map(gradientOf),
    });
    node.inputs.forEach((input, i) => {
      const flow = flows[i];
      if (input === ABSENT || !flow || !dependent.has(input)) return;
      contributions.set(input, [...contributions.get(input) ?? [], flow()]);
    });
  }
  if (withoutRule.size > 0) {
    throw new RangeError(`Cannot differentiate ${[...withoutRule].join(", ")}: there is no rule`);
  }
  const unreached = wrt.filter((value) => !contributions.has(value));
  if (unreached.length > 0) {
    throw new RangeError(`Cannot differentiate by ${unreached.join(", ")}: the loss does not depend on it`);
  }
  return wrt.map((value) => gradientOf(value)!);
}

/** Operators that look at the shape of their input and not at its elements. */
const BLIND: ReadonlySet<string> = new Set(["Shape", "Size"]);

/** The values that change with the elements of one of `sources`, these included. */
function dependentOn(nodes: readonly Node[], sources: readonly string[]): ReadonlySet<string> {
  const dependent = new Set(sources);
  for (const { op, inputs, outputs } of nodes) {
    if (!BLIND.has(op) && inputs.some((input) => dependent.has(input))) {
      for (const output of outputs) dependent.add(output);
    }
  }
  return dependent;
}
