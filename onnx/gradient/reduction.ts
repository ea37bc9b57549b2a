import { MICROSOFT, type Value } from "../mod.ts";
import {
  countOf,
  type Differentiated,
  floatAttribute,
  integerAttribute,
  knowOnly,
  onlyGradient,
  type Rule,
  shapeOf,
} from "./rule.ts";

/** A reduction's gradient, repeated along the reduced axes to the shape of the input. */
function spread(node: Differentiated): Value {
  const { graph, inputs: [x, axes] } = node;
  knowOnly(node, ["keepdims"]);
  const gradient = onlyGradient(node);
  const kept = integerAttribute(node, "keepdims", 1) === 1 || axes === undefined;
  const aligned = kept ? gradient : graph.op("Unsqueeze", [gradient, axes]);
  return graph.op("Expand", [aligned, shapeOf(graph, x!)]);
}

/** Operators that look along an axis: sums, softmax, norms. */
export const REDUCTION: Readonly<Record<string, Rule>> = {
  ReduceSum: (node) => [() => spread(node), null],

  ReduceMean(node) {
    const { graph, inputs: [x], outputs: [mean] } = node;
    return [() => {
      const each = graph.op("Div", [countOf(graph, mean!), countOf(graph, x!)]);
      return graph.op("Mul", [spread(node), each]);
    }, null];
  },

  /** dx = y ⊙ (g − Σ g ⊙ y) */
  Softmax(node) {
    const { graph, outputs: [y] } = node;
    return [() => {
      const weighted = graph.op("Mul", [onlyGradient(node), y!]);
      const sum = alongAxis(node, weighted);
      return graph.op("Sub", [weighted, graph.op("Mul", [y!, sum])]);
    }];
  },

  /** dx = g − exp(y) · Σ g */
  LogSoftmax(node) {
    const { graph, outputs: [y] } = node;
    return [() => {
      const gradient = onlyGradient(node);
      const pulled = graph.op("Mul", [graph.op("Exp", [y!]), alongAxis(node, gradient)]);
      return graph.op("Sub", [gradient, pulled]);
    }];
  },

  /**
   * y = n ⊙ w with n = x / r, r = √(mean(x²) + ε) over the last axis:
   * dx = (h − n · mean(h ⊙ n)) / r with h = g ⊙ w, and dw = Σ g ⊙ n over all rows.
   */
  SimplifiedLayerNormalization(node) {
    const { graph, inputs: [x, weight] } = node;
    knowOnly(node, ["axis", "epsilon", "stash_type"]);
    if (integerAttribute(node, "axis", -1) !== -1) {
      throw new RangeError("Cannot differentiate SimplifiedLayerNormalization over other axes than the last");
    }
    const epsilon = graph.floats(floatAttribute(node, "epsilon", 1e-5));
    const last = graph.integers([-1]);
    const mean = (value: Value) => graph.op("ReduceMean", [value, last], { attributes: { keepdims: 1 } });
    const gradient = onlyGradient(node);
    const root = () => graph.op("Sqrt", [graph.op("Add", [mean(graph.op("Mul", [x!, x!])), epsilon])]);
    const normed = () => graph.op("Div", [x!, root()]);
    return [
      () => {
        const weighted = graph.op("Mul", [gradient, weight!]);
        const along = graph.op("Mul", [normed(), mean(graph.op("Mul", [weighted, normed()]))]);
        return graph.op("Div", [graph.op("Sub", [weighted, along]), root()]);
      },
      () => {
        const rows = graph.op("Reshape", [
          graph.op("Mul", [gradient, normed()]),
          graph.op("Concat", [graph.integers([-1]), shapeOf(graph, weight!)], { attributes: { axis: 0 } }),
        ]);
        return graph.op("ReduceSum", [rows, graph.integers([0])], { attributes: { keepdims: 0 } });
      },
    ];
  },

  /** A rotation's gradient is turned back: by the opposite angle, whose sine is the opposite. */
  [`${MICROSOFT}.RotaryEmbedding`](node) {
    const { graph, node: { attributes }, inputs: [, positions, cosines, sines] } = node;
    return [
      () =>
        graph.op("RotaryEmbedding", [onlyGradient(node), positions!, cosines!, graph.op("Neg", [sines!])], {
          domain: MICROSOFT,
          attributes,
        }),
      null,
      null,
      null,
    ];
  },
};

function alongAxis(node: Differentiated, value: Value): Value {
  const axis = node.graph.integers([integerAttribute(node, "axis", -1)]);
  return node.graph.op("ReduceSum", [value, axis], { attributes: { keepdims: 1 } });
}
