import { ABSENT, type GraphBuilder, type Value } from "../mod.ts";
import { integerAttribute, joined, onlyGradient, reshapeLike, type Rule, shapeOf, zerosLike } from "./rule.ts";

const reshaped: Rule = (node) => [() => reshapeLike(node.graph, onlyGradient(node), node.inputs[0]!), null];

/** Operators that move elements, or pick some of them. */
export const LAYOUT: Readonly<Record<string, Rule>> = {
  Reshape: reshaped,
  Flatten: reshaped,
  Squeeze: reshaped,
  Unsqueeze: reshaped,

  Transpose(node) {
    const { perm } = node.node.attributes;
    if (perm === undefined) return [() => node.graph.op("Transpose", [onlyGradient(node)])];
    const axes = perm as readonly number[];
    const inverse = axes.map((_, axis) => axes.indexOf(axis));
    return [() => node.graph.op("Transpose", [onlyGradient(node)], { attributes: { perm: inverse } })];
  },

  Split(node) {
    const { graph, gradients, outputs } = node;
    const axis = integerAttribute(node, "axis", 0);
    return [() => {
      const parts = gradients.map((gradient, i) => gradient ?? zerosLike(graph, outputs[i]!));
      return parts.length === 1 ? parts[0]! : graph.op("Concat", parts, { attributes: { axis } });
    }, null];
  },

  Concat(node) {
    const { graph, inputs } = node;
    const axis = integerAttribute(node, "axis", 0);
    if (inputs.length === 1) return [() => onlyGradient(node)];
    return inputs.map((_, i) => () => {
      const sizes = inputs.map((input) => graph.op("Gather", [shapeOf(graph, input), graph.integers([axis])]));
      const parts = graph.ops("Split", [onlyGradient(node), joined(graph, ...sizes)], inputs.length, {
        attributes: { axis },
      });
      return parts[i]!;
    });
  },

  /** Padding by less is cropping, so the gradient is padded by the opposite. */
  Pad(node) {
    const { graph, node: { attributes: { mode = "constant" } }, inputs: [, pads, , axes] } = node;
    if (mode !== "constant") throw new RangeError(`Cannot differentiate Pad with mode ${mode}`);
    const cut = graph.op("Neg", [pads!]);
    return [() => graph.op("Pad", [onlyGradient(node), cut, ABSENT, axes ?? ABSENT]), null, null, null];
  },

  /** With steps of one: zeros before and behind. */
  Slice(node) {
    const { graph, inputs: [x, starts, , axes, steps] } = node;
    if (steps !== undefined) throw new RangeError("Cannot differentiate Slice with steps");
    return [
      () => {
        const gradient = onlyGradient(node);
        const along = (value: Value) =>
          axes === undefined ? shapeOf(graph, value) : graph.op("Gather", [shapeOf(graph, value), axes]);
        const sizes = along(x!);
        const fromFront = graph.op("Where", [
          graph.op("Less", [starts!, graph.integers(0)]),
          graph.op("Add", [starts!, sizes]),
          starts!,
        ]);
        const before = graph.op("Min", [graph.op("Max", [fromFront, graph.integers(0)]), sizes]);
        const behind = graph.op("Sub", [graph.op("Sub", [sizes, before]), along(gradient)]);
        return graph.op("Pad", [gradient, joined(graph, before, behind), ABSENT, axes ?? ABSENT]);
      },
      null,
      null,
      null,
      null,
    ];
  },

  /**
   * Every gathered line's gradient is added to the line that it came from.
   *
   * Scattering takes microseconds per row where a product with one-hot rows would cost as much as the output head.
   */
  Gather(node) {
    const { graph, inputs: [data, indices] } = node;
    const axis = integerAttribute(node, "axis", 0);
    return [() => {
      const shape = shapeOf(graph, data!);
      const length = graph.op("Gather", [shape, graph.integers([axis])]);
      const before = productOf(graph, shape, 0, axis);
      const behind = axis === -1 ? graph.integers([1]) : productOf(graph, shape, axis + 1, Number.MAX_SAFE_INTEGER);
      const zeros = graph.op("ConstantOfShape", [joined(graph, before, length, behind)]);
      const lines = graph.op("Reshape", [
        onlyGradient(node),
        joined(graph, before, graph.op("Reshape", [graph.op("Size", [indices!]), graph.integers([1])]), behind),
      ], { attributes: { allowzero: 1 } });
      const column = graph.op("Reshape", [indices!, graph.integers([1, -1, 1])]);
      const places = graph.op("Expand", [column, shapeOf(graph, lines)]);
      const sum = graph.op("ScatterElements", [zeros, places, lines], { attributes: { axis: 1, reduction: "add" } });
      return graph.op("Reshape", [sum, shape]);
    }, null];
  },

  GatherElements(node) {
    const { graph, inputs: [data, indices] } = node;
    const attributes = { axis: integerAttribute(node, "axis", 0), reduction: "add" };
    return [
      () => graph.op("ScatterElements", [zerosLike(graph, data!), indices!, onlyGradient(node)], { attributes }),
      null,
    ];
  },
};

/** Product of the sizes from one axis to another, int64 `[1]`. */
function productOf(graph: GraphBuilder, shape: Value, start: number, end: number): Value {
  const sizes = graph.op("Slice", [shape, graph.integers([start]), graph.integers([end])]);
  return graph.op("ReduceProd", [sizes, graph.integers([0])], { attributes: { keepdims: 1 } });
}
