import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok, throws } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { ABSENT, ElementType, GraphBuilder, MICROSOFT, openRuntime, type OpOptions, type Value } from "../mod.ts";
import { gradients } from "./gradients.ts";

interface Case {
  /** What is tested, if the operator's name does not say it. */
  readonly about?: string;
  readonly op: string;
  /** Shapes of the inputs that are differentiated by. */
  readonly shapes: readonly (readonly number[])[];
  readonly options?: OpOptions;
  /** All inputs in their order, given those of `shapes`; just those unless given. */
  readonly inputs?: (graph: GraphBuilder, values: readonly Value[]) => readonly Value[];
  /** Number of outputs; the loss uses all of them. */
  readonly outputs?: number;
  /** Inputs are drawn from here; `[-1, 1]` unless given. */
  readonly range?: readonly [number, number];
}

const attributes = (values: NonNullable<OpOptions["attributes"]>): OpOptions => ({ attributes: values });
const microsoft = (values: NonNullable<OpOptions["attributes"]>): OpOptions => ({
  domain: MICROSOFT,
  attributes: values,
});
const followedBy = (...rest: readonly (readonly number[])[]) => (graph: GraphBuilder, values: readonly Value[]) => [
  ...values,
  ...rest.map((list) => graph.integers(list)),
];

const CASES: readonly Case[] = [
  { op: "Identity", shapes: [[2, 3]] },
  { op: "Add", shapes: [[2, 3], [2, 3]] },
  { op: "Add", about: "of a row to each row", shapes: [[2, 3], [3]] },
  { op: "Add", about: "of a column and a row", shapes: [[2, 1], [1, 3]] },
  { op: "Add", about: "of a scalar", shapes: [[2, 3], []] },
  { op: "Add", about: "of a value to itself", shapes: [[2, 3]], inputs: (_, [x]) => [x!, x!] },
  { op: "Sum", shapes: [[2, 3], [3], [2, 1]] },
  { op: "Sub", shapes: [[2, 3], [3]] },
  { op: "Mul", shapes: [[2, 3], [2, 1]] },
  { op: "Mul", about: "of a value by itself", shapes: [[4]], inputs: (_, [x]) => [x!, x!] },
  { op: "Div", shapes: [[2, 3], [3]], range: [0.5, 2] },
  { op: "Neg", shapes: [[5]] },
  { op: "Exp", shapes: [[5]] },
  { op: "Log", shapes: [[5]], range: [0.5, 2] },
  { op: "Sqrt", shapes: [[5]], range: [0.5, 2] },
  { op: "Sigmoid", shapes: [[5]] },
  { op: "Softplus", shapes: [[5]], range: [-4, 4] },
  { op: "Relu", shapes: [[9]] },
  { op: "Clip", shapes: [[9]], inputs: (g, [x]) => [x!, g.floats(-0.4), g.floats(0.5)] },
  { op: "Clip", about: "from below", shapes: [[9]], inputs: (g, [x]) => [x!, g.floats(-0.4)] },
  {
    op: "Where",
    shapes: [[2, 3], [3]],
    inputs: (graph, [a, b]) => [
      graph.op("Cast", [graph.integers([1, 0, 0, 0, 1, 1], [2, 3])], attributes({ to: ElementType.bool })),
      a!,
      b!,
    ],
  },
  { op: "Cast", about: "to its own type", shapes: [[4]], options: attributes({ to: ElementType.float32 }) },
  { op: "Expand", shapes: [[3, 1]], inputs: followedBy([2, 3, 4]) },
  { op: "QuickGelu", about: "as SiLU", shapes: [[6]], options: microsoft({ alpha: { float: 1 } }), range: [-3, 3] },
  { op: "QuickGelu", about: "with its usual alpha", shapes: [[6]], options: microsoft({}), range: [-3, 3] },
  { op: "MatMul", shapes: [[2, 3], [3, 4]] },
  { op: "MatMul", about: "of two batches", shapes: [[2, 2, 3], [2, 3, 4]] },
  { op: "MatMul", about: "of a batch and one matrix", shapes: [[2, 2, 3], [3, 4]] },
  ...[0, 1].flatMap((transA) =>
    [0, 1].map((transB): Case => ({
      op: "Gemm",
      about: `transA ${transA}, transB ${transB}`,
      shapes: [transA ? [3, 2] : [2, 3], transB ? [4, 3] : [3, 4], [4]],
      options: attributes({ transA, transB }),
    }))
  ),
  { op: "Gemm", about: "without bias", shapes: [[2, 3], [4, 3]], options: attributes({ transB: 1 }) },
  { op: "Reshape", shapes: [[2, 6]], inputs: followedBy([3, -1]) },
  { op: "Flatten", shapes: [[2, 3, 2]], options: attributes({ axis: 1 }) },
  { op: "Squeeze", shapes: [[2, 1, 3]], inputs: followedBy([1]) },
  { op: "Unsqueeze", shapes: [[2, 3]], inputs: followedBy([0, 2]) },
  { op: "Transpose", shapes: [[2, 3]] },
  { op: "Transpose", about: "of many axes", shapes: [[2, 3, 4]], options: attributes({ perm: [2, 0, 1] }) },
  { op: "Split", shapes: [[2, 6]], outputs: 3, inputs: followedBy([1, 3, 2]), options: attributes({ axis: 1 }) },
  { op: "Split", about: "in halves", shapes: [[4, 2]], outputs: 2, options: attributes({ axis: 0, num_outputs: 2 }) },
  { op: "Concat", shapes: [[2, 1], [2, 3], [2, 2]], options: attributes({ axis: 1 }) },
  { op: "Pad", shapes: [[2, 3]], inputs: followedBy([1, 0, 0, 2]) },
  { op: "Pad", about: "by less than nothing", shapes: [[4, 3]], inputs: followedBy([1, 0, -2, 1]) },
  {
    op: "Pad",
    about: "of one axis",
    shapes: [[2, 3]],
    inputs: (g, [x]) => [x!, g.integers([1, 2]), ABSENT, g.integers([1])],
  },
  { op: "Slice", shapes: [[4, 5]], inputs: followedBy([1, 0], [3, 4]) },
  { op: "Slice", about: "of named axes", shapes: [[4, 2, 5]], inputs: followedBy([1, 2], [100, 4], [0, 2]) },
  { op: "Slice", about: "from the end", shapes: [[5]], inputs: followedBy([-3], [-1], [0]) },
  { op: "Gather", shapes: [[4, 3]], inputs: followedBy([2, 0, 2]) },
  {
    op: "Gather",
    about: "along the last axis",
    shapes: [[2, 3]],
    inputs: followedBy([2, 2, 0, 1]),
    options: attributes({ axis: -1 }),
  },
  {
    op: "Gather",
    about: "of a table of indices along a middle axis",
    shapes: [[2, 3, 2]],
    inputs: (graph, [x]) => [x!, graph.integers([0, 2, 2, 1], [2, 2])],
    options: attributes({ axis: 1 }),
  },
  { op: "Gather", about: "of one line", shapes: [[3, 2]], inputs: (graph, [x]) => [x!, graph.integers(1)] },
  {
    op: "GatherElements",
    shapes: [[2, 4]],
    inputs: (graph, [x]) => [x!, graph.integers([3, 3, 0, 1], [2, 2])],
    options: attributes({ axis: 1 }),
  },
  { op: "ReduceSum", shapes: [[2, 3, 4]], inputs: followedBy([1]), options: attributes({ keepdims: 1 }) },
  {
    op: "ReduceSum",
    about: "of axes that vanish",
    shapes: [[2, 3, 4]],
    inputs: followedBy([0, -1]),
    options: attributes({ keepdims: 0 }),
  },
  { op: "ReduceSum", about: "of everything", shapes: [[2, 3]], options: attributes({ keepdims: 0 }) },
  { op: "ReduceMean", shapes: [[2, 3, 4]], inputs: followedBy([1, 2]), options: attributes({ keepdims: 0 }) },
  { op: "ReduceMean", about: "of everything", shapes: [[2, 3]], options: attributes({ keepdims: 0 }) },
  { op: "Softmax", shapes: [[2, 4]], options: attributes({ axis: -1 }) },
  { op: "Softmax", about: "along another axis", shapes: [[3, 2]], options: attributes({ axis: 0 }) },
  { op: "LogSoftmax", shapes: [[2, 4]], options: attributes({ axis: -1 }) },
  {
    op: "SimplifiedLayerNormalization",
    shapes: [[3, 4], [4]],
    options: attributes({ axis: -1, epsilon: { float: 1e-2 }, stash_type: 1 }),
  },
  {
    op: "SimplifiedLayerNormalization",
    about: "of three axes",
    shapes: [[2, 2, 4], [4]],
    options: attributes({ axis: -1, epsilon: { float: 1e-5 }, stash_type: 1 }),
  },
  ...[0, 1].map((interleaved): Case => ({
    op: "RotaryEmbedding",
    about: interleaved ? "with neighbouring pairs" : "with halves",
    shapes: [[2, 3, 8]],
    inputs: (graph, [x]) => {
      const angles = Float32Array.from({ length: 16 }, (_, i) => 0.4 * i);
      return [
        x!,
        graph.integers([0, 1, 3, 2, 2, 1], [2, 3]),
        graph.floats(angles.map(Math.cos), [4, 4]),
        graph.floats(angles.map(Math.sin), [4, 4]),
      ];
    },
    options: microsoft({ interleaved }),
  })),
];

/**
 * Half the distance of the two points of a difference, and how far the slope between them may lie from the gradient.
 *
 * Losses are near 1, so float32 rounding moves a slope by about 1e-7 / 2e-2, and the third derivative by about 1e-2² / 6:
 * together some 2e-5. The tolerance leaves room for sums of dozens of terms and for third derivatives of about 10.
 */
const STEP = 1e-2;
const TOLERANCE = 1e-3;

describe("gradients()", () => {
  for (const example of CASES) {
    const { op, about } = example;
    it(`agrees with differences for ${op}${about === undefined ? "" : ` ${about}`}`, () =>
      agreesWithDifferences(example.shapes, example.range ?? [-1, 1], (graph, values) => {
        const inputs = example.inputs?.(graph, values) ?? values;
        const results = graph.ops(op, inputs, example.outputs ?? 1, example.options);
        return results.map((result, i) => weightedSum(graph, result, i)).reduce((a, b) => graph.op("Add", [a, b]));
      }));
  }

  it("adds up what flows through several paths", () =>
    agreesWithDifferences([[3, 3]], [-1, 1], (graph, [x]) => {
      const square = graph.op("MatMul", [x!, x!]);
      const sum = graph.op("Sum", [square, graph.op("Sigmoid", [x!]), graph.op("Mul", [square, x!])]);
      return weightedSum(graph, sum, 0);
    }));

  it("leaves out what an output that nobody reads would give", () =>
    agreesWithDifferences([[2, 4]], [-1, 1], (graph, [x]) => {
      const [left] = graph.ops("Split", [x!], 2, attributes({ axis: 1, num_outputs: 2 }));
      return weightedSum(graph, left!, 0);
    }));

  it("differentiates by a value between", async () => {
    const graph = new GraphBuilder();
    const x = graph.input("x", ElementType.float32, [3]);
    const doubled = graph.op("Mul", [x, graph.floats(2)]);
    const loss = graph.op("ReduceSum", [graph.op("Mul", [doubled, doubled])], attributes({ keepdims: 0 }));
    graph.output("gradient", gradients(graph, loss, [doubled])[0]!, ElementType.float32);
    const runtime = openRuntime();
    using session = await runtime.openSession({ model: graph.build(), threads: 1 });
    const gradient = runtime.tensor(ElementType.float32, [3], new Float32Array(3));
    const input = runtime.tensor(ElementType.float32, [3], Float32Array.of(1, -2, 0.5));
    await session.bind().input("x", input).output("gradient", gradient).run();
    deepEqual([...gradient.data], [4, -8, 2]);
  });

  it("refuses operators without a rule by name", () => {
    const graph = new GraphBuilder();
    const x = graph.input("x", ElementType.float32, [3]);
    const loss = graph.op("ReduceSum", [
      graph.op("Add", [graph.op("Erf", [graph.op("Round", [x])]), graph.op("Gelu", [x], microsoft({}))]),
    ]);
    throws(() => gradients(graph, loss, [x]), {
      name: "RangeError",
      message: "Cannot differentiate com.microsoft.Gelu, Erf, Round: there is no rule",
    });
  });

  it("refuses settings that its rules do not cover", () => {
    const refuses = (op: string, inputs: readonly Value[], options: OpOptions, message: RegExp) => {
      const graph = new GraphBuilder();
      const loss = graph.op("ReduceSum", [graph.op(op, [graph.input("x", ElementType.float32), ...inputs], options)]);
      throws(() => gradients(graph, loss, ["x" as Value]), { name: "RangeError", message });
    };
    const other = "other" as Value;
    refuses("Gemm", [other], attributes({ alpha: { float: 2 } }), /Gemm with the attribute alpha/);
    refuses("Slice", [other, other, other, other], {}, /Slice with steps/);
    refuses("Pad", [other], attributes({ mode: "reflect" }), /Pad with mode reflect/);
    refuses("ReduceMean", [other], attributes({ noop_with_empty_axes: 1 }), /ReduceMean with the attribute noop/);
  });

  it("refuses a value that the loss does not depend on", () => {
    const graph = new GraphBuilder();
    const [x, y] = [graph.input("x", ElementType.float32, [3]), graph.input("y", ElementType.float32, [3])];
    const loss = graph.op("ReduceSum", [
      graph.op("Mul", [x, graph.op("Cast", [graph.op("Size", [y])], attributes({ to: ElementType.float32 }))]),
    ]);
    throws(() => gradients(graph, loss, [x, y]), {
      name: "RangeError",
      message: "Cannot differentiate by y: the loss does not depend on it",
    });
  });
});

/** Σ w ⊙ value with weights that differ from element to element; a plain sum would hide mistakes in softmax and norms. */
function weightedSum(graph: GraphBuilder, value: Value, seed: number): Value {
  const count = graph.op("Squeeze", [graph.op("Size", [value])]);
  const places = graph.op("Cast", [graph.op("Range", [graph.integers(0), count, graph.integers(1)])], {
    attributes: { to: ElementType.float32 },
  });
  const weights = graph.op("Sin", [
    graph.op("Add", [graph.op("Mul", [places, graph.floats(1.7)]), graph.floats(1 + seed)]),
  ]);
  const flat = graph.op("Reshape", [value, graph.integers([-1])]);
  return graph.op("ReduceSum", [graph.op("Mul", [flat, weights])], { attributes: { keepdims: 0 } });
}

async function agreesWithDifferences(
  shapes: readonly (readonly number[])[],
  [low, high]: readonly [number, number],
  lossOf: (graph: GraphBuilder, inputs: readonly Value[]) => Value,
): Promise<void> {
  const runtime = openRuntime();
  const graph = new GraphBuilder();
  const values = shapes.map((shape, i) => graph.input(`x${i}`, ElementType.float32, shape));
  const loss = lossOf(graph, values);
  graph.output("loss", loss, ElementType.float32, []);
  gradients(graph, loss, values).forEach((gradient, i) =>
    graph.output(`gradient${i}`, gradient, ElementType.float32, shapes[i]!)
  );
  using session = await runtime.openSession({ model: graph.build(), threads: 1 });
  const random = xoroshiro128plus(7);
  const draw = () => low + (high - low) * uniformFloat64(random);
  const tensors = (fill: () => number) =>
    shapes.map((shape) =>
      runtime.tensor(ElementType.float32, shape, Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, fill))
    );
  const inputs = tensors(draw);
  const outputs = tensors(() => NaN);
  const result = runtime.tensor(ElementType.float32, [], new Float32Array(1));
  using binding = session.bind().output("loss", result);
  inputs.forEach((tensor, i) => binding.input(`x${i}`, tensor).output(`gradient${i}`, outputs[i]!));
  await binding.run();
  const found = outputs.map(({ data }) => data.slice());

  const lossAt = async (data: Float32Array, at: number, value: number) => {
    const before = data[at]!;
    data[at] = value;
    await binding.run();
    data[at] = before;
    return result.data[0]!;
  };
  for (const [i, { data }] of inputs.entries()) {
    for (let at = 0; at < data.length; at++) {
      const above = await lossAt(data, at, data[at]! + STEP);
      const below = await lossAt(data, at, data[at]! - STEP);
      const slope = (above - below) / (2 * STEP);
      const gradient = found[i]![at]!;
      ok(Math.abs(gradient - slope) <= TOLERANCE, `input ${i}, element ${at}: gradient ${gradient}, slope ${slope}`);
    }
  }
}
