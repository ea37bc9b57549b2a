import { type Attribute, ElementType, type GraphBuilder, type Node, type Value } from "../mod.ts";

/** A node that the loss depends on, with what its rule needs. */
export interface Differentiated {
  readonly graph: GraphBuilder;
  readonly node: Node;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** Of each output, in its shape; undefined where the loss does not depend on it. */
  readonly gradients: readonly (Value | undefined)[];
}

/**
 * How to differentiate one operator: for each input a function that adds the nodes of its gradient and returns it, in
 * that input's shape. It is called only for inputs whose gradient is wanted. Null: nothing flows there (indices, shapes).
 */
export type Rule = (node: Differentiated) => readonly ((() => Value) | null)[];

/** The gradient of an operator's only output. */
export function onlyGradient({ gradients }: Differentiated): Value {
  return gradients[0]!; // a rule is asked only if some output has one
}

/** An integer attribute, or `otherwise` where the node has none. */
export function integerAttribute({ node }: Differentiated, name: string, otherwise: number): number {
  const value = node.attributes[name];
  return typeof value === "number" ? value : otherwise;
}

/** A float attribute, or `otherwise` where the node has none. */
export function floatAttribute({ node }: Differentiated, name: string, otherwise: number): number {
  const value: Attribute | undefined = node.attributes[name];
  return typeof value === "object" && "float" in value ? value.float : otherwise;
}

/**
 * Refuses attributes that a rule does not know of: a gradient that ignores one would be wrong without a word.
 *
 * @throws {RangeError} If the node has others.
 */
export function knowOnly({ node }: Differentiated, known: readonly string[]): void {
  const unknown = Object.keys(node.attributes).filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw new RangeError(`Cannot differentiate ${node.op} with the attribute ${unknown.join(", ")}`);
  }
}

/** The sizes of a value, int64 `[rank]`. */
export function shapeOf(graph: GraphBuilder, value: Value): Value {
  return graph.op("Shape", [value]);
}

/** Float32 zeros in the shape of a value. */
export function zerosLike(graph: GraphBuilder, value: Value): Value {
  return graph.op("ConstantOfShape", [shapeOf(graph, value)]);
}

/** The same elements in the shape of another value. */
export function reshapeLike(graph: GraphBuilder, value: Value, like: Value): Value {
  return graph.op("Reshape", [value, shapeOf(graph, like)], { attributes: { allowzero: 1 } });
}

/** Number of elements of a value, as a float32 scalar. */
export function countOf(graph: GraphBuilder, value: Value): Value {
  return graph.op("Cast", [graph.op("Size", [value])], { attributes: { to: ElementType.float32 } });
}

/** A list of int64 scalars and lists, end to end. */
export function joined(graph: GraphBuilder, ...parts: Value[]): Value {
  return graph.op("Concat", parts, { attributes: { axis: 0 } });
}

/**
 * Sums a gradient over the axes along which `like` was repeated to the gradient's shape.
 *
 * Nodes carry no shapes, so that is found out at run time; where all sizes are fixed the runtime folds it away when the
 * session is opened.
 */
export function unbroadcast(graph: GraphBuilder, gradient: Value, like: Value): Value {
  const [wide, narrow] = [shapeOf(graph, gradient), shapeOf(graph, like)];
  const missing = graph.op("Sub", [shapeOf(graph, wide), shapeOf(graph, narrow)]);
  const aligned = graph.op("Pad", [narrow, joined(graph, missing, graph.integers([0])), graph.integers(1)]);
  const repeated = graph.op("NonZero", [graph.op("Not", [graph.op("Equal", [aligned, wide])])]);
  const axes = graph.op("Reshape", [repeated, graph.integers([-1])]);
  const sum = graph.op("ReduceSum", [gradient, axes], { attributes: { keepdims: 1, noop_with_empty_axes: 1 } });
  return graph.op("Reshape", [sum, narrow], { attributes: { allowzero: 1 } });
}
