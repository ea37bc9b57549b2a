import { MICROSOFT, type Value } from "../mod.ts";
import { type Differentiated, floatAttribute, knowOnly, onlyGradient, type Rule, unbroadcast } from "./rule.ts";

/** The gradient where a condition holds, and zero elsewhere. */
function through(node: Differentiated, condition: Value): Value {
  return node.graph.op("Where", [condition, onlyGradient(node), node.graph.floats(0)]);
}

/** Operators that work element by element; the binary ones broadcast. */
export const ELEMENTWISE: Readonly<Record<string, Rule>> = {
  Identity: (node) => [() => onlyGradient(node)],

  Add: (node) => node.inputs.map((input) => () => unbroadcast(node.graph, onlyGradient(node), input)),

  Sum: (node) => node.inputs.map((input) => () => unbroadcast(node.graph, onlyGradient(node), input)),

  Sub(node) {
    const { graph, inputs: [a, b] } = node;
    const gradient = onlyGradient(node);
    return [
      () => unbroadcast(graph, gradient, a!),
      () => graph.op("Neg", [unbroadcast(graph, gradient, b!)]),
    ];
  },

  Mul(node) {
    const { graph, inputs: [a, b] } = node;
    const gradient = onlyGradient(node);
    return [
      () => unbroadcast(graph, graph.op("Mul", [gradient, b!]), a!),
      () => unbroadcast(graph, graph.op("Mul", [gradient, a!]), b!),
    ];
  },

  Div(node) {
    const { graph, inputs: [a, b], outputs: [quotient] } = node;
    const overDivisor = () => graph.op("Div", [onlyGradient(node), b!]);
    return [
      () => unbroadcast(graph, overDivisor(), a!),
      () => graph.op("Neg", [unbroadcast(graph, graph.op("Mul", [overDivisor(), quotient!]), b!)]),
    ];
  },

  Neg: (node) => [() => node.graph.op("Neg", [onlyGradient(node)])],

  Exp: (node) => [() => node.graph.op("Mul", [onlyGradient(node), node.outputs[0]!])],

  Log: (node) => [() => node.graph.op("Div", [onlyGradient(node), node.inputs[0]!])],

  /** dx = g / 2√x */
  Sqrt(node) {
    const { graph, outputs: [root] } = node;
    return [() => graph.op("Div", [graph.op("Mul", [onlyGradient(node), graph.floats(0.5)]), root!])];
  },

  /** dx = g · y · (1 − y) */
  Sigmoid(node) {
    const { graph, outputs: [y] } = node;
    return [() => {
      const slope = graph.op("Mul", [y!, graph.op("Sub", [graph.floats(1), y!])]);
      return graph.op("Mul", [onlyGradient(node), slope]);
    }];
  },

  /** At 0, where there is no slope, 0. */
  Relu(node) {
    const { graph, inputs: [x] } = node;
    return [() => through(node, graph.op("Greater", [x!, graph.floats(0)]))];
  },

  /** Nothing flows where x lies beyond a limit, nor to the limits. */
  Clip(node) {
    const { graph, inputs: [x], outputs: [y] } = node;
    return [() => through(node, graph.op("Equal", [x!, y!])), null, null];
  },

  /** y = log(1 + eˣ): dx = g · sigmoid(x) */
  Softplus(node) {
    const { graph, inputs: [x] } = node;
    return [() => graph.op("Mul", [onlyGradient(node), graph.op("Sigmoid", [x!])])];
  },

  Where(node) {
    const { graph, inputs: [condition, a, b] } = node;
    const gradient = onlyGradient(node);
    const zero = graph.floats(0);
    return [
      null,
      () => unbroadcast(graph, graph.op("Where", [condition!, gradient, zero]), a!),
      () => unbroadcast(graph, graph.op("Where", [condition!, zero, gradient]), b!),
    ];
  },

  /** Between float types. */
  Cast: (node) => [() => node.graph.op("CastLike", [onlyGradient(node), node.inputs[0]!])],

  Expand: (node) => [() => unbroadcast(node.graph, onlyGradient(node), node.inputs[0]!), null],

  /** y = x · s with s = sigmoid(αx): dx = g · (s + α·y·(1 − s)). SiLU where α is 1. */
  [`${MICROSOFT}.QuickGelu`](node) {
    const { graph, inputs: [x], outputs: [y] } = node;
    knowOnly(node, ["alpha"]);
    const alpha = floatAttribute(node, "alpha", 1.702);
    const scaled = (value: typeof x) => alpha === 1 ? value! : graph.op("Mul", [value!, graph.floats(alpha)]);
    return [() => {
      const sigmoid = graph.op("Sigmoid", [scaled(x)]);
      const bend = graph.op("Mul", [scaled(y), graph.op("Sub", [graph.floats(1), sigmoid])]);
      return graph.op("Mul", [onlyGradient(node), graph.op("Add", [sigmoid, bend])]);
    }];
  },
};
