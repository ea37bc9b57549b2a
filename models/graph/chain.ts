import { ABSENT, type Attribute, type GraphBuilder, type Value } from "../../onnx/mod.ts";

/** The domain of the operators in `kernels/native/`. */
export const ESPALIER = "espalier";

type Attributes = Readonly<Record<string, Attribute>>;

/** Adds one of our own operators for the CPU to a graph: a node of its own, or a part of a chain. */
export type AddOperator = (graph: GraphBuilder, op: string, inputs: readonly Value[], attributes: Attributes) => Value;

/** As a node of its own. */
export function ownNode(graph: GraphBuilder, op: string, inputs: readonly Value[], attributes: Attributes): Value {
  return graph.op(op, inputs, { domain: ESPALIER, attributes });
}

interface Part {
  readonly op: string;
  readonly operands: readonly Value[];
  readonly attributes: Attributes;
  readonly output: Value;
}

/**
 * Operators that follow one another as one node, so that the runtime is called, and its threads are, once for all of them:
 * a sixth of the time of a step of 30 small blocks went there (Zen 5).
 *
 * The parts' outputs are values for further parts. Only `end` gives one that other nodes can read.
 */
export class Chain {
  readonly #parts: Part[] = [];

  /** Adds the next part. */
  readonly add: AddOperator = (_graph, op, operands, attributes) => {
    const output = `part ${this.#parts.length} of a chain` as Value;
    this.#parts.push({ op, operands, attributes, output });
    return output;
  };

  /**
   * Adds the node.
   *
   * @param last The output of the last part.
   * @returns The same as the node's output; `last` itself if there are no parts.
   */
  end(graph: GraphBuilder, last: Value): Value {
    const parts = this.#parts.splice(0);
    if (parts.length === 0) return last;
    if (parts.at(-1)!.output !== last) throw new RangeError(`Cannot end a chain with "${last}": not its last part`);
    const numbers = new Map<Value, number>([[ABSENT, -1]]);
    parts.forEach(({ output }, part) => numbers.set(output, -2 - part));
    const inputs: Value[] = [];
    for (const operand of parts.flatMap(({ operands }) => operands)) {
      if (numbers.has(operand)) continue;
      numbers.set(operand, inputs.length);
      inputs.push(operand);
    }
    return ownNode(graph, "Chain", inputs, {
      operand_counts: parts.map(({ operands }) => operands.length),
      operands: parts.flatMap(({ operands }) => operands.map((operand) => numbers.get(operand)!)),
      ...Object.fromEntries(
        parts.flatMap(({ op, attributes }, part) =>
          Object.entries({ operator: op, ...attributes }).map(([name, value]) => [`${part}.${name}`, value])
        ),
      ),
    });
  }
}
