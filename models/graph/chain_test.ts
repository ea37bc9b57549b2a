import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, rejects, throws } from "node:assert/strict";
import { openKernels } from "../../kernels/native_library.ts";
import {
  ABSENT,
  type Attribute,
  ElementType,
  GraphBuilder,
  type Model,
  openRuntime,
  type Value,
} from "../../onnx/mod.ts";
import { type AddOperator, Chain, ESPALIER, ownNode } from "./chain.ts";

const { kernels } = await openKernels();

describe("Chain", () => {
  const graph = new GraphBuilder();

  it("refuses to end with anything but its last part", () => {
    const chain = new Chain();
    const first = chain.add(graph, "PrefixMatMul", [], {});
    chain.add(graph, "PrefixMatMul", [first], {});
    throws(() => chain.end(graph, first), /not its last part/);
  });

  it("without parts is no node", () => {
    const empty = new GraphBuilder();
    const x = empty.input("x", ElementType.float32, ["rows", 4]);
    equal(new Chain().end(empty, x), x);
    deepEqual(empty.nodes, []);
  });
});

if (kernels !== null) {
  const operators = kernels.path;

  describe("A chain's node", () => {
    it("gives bit for bit what its parts give as nodes, also where one reads an early part", async () => {
      for (const rows of [1, 3, 40]) {
        const x = Float32Array.from({ length: rows * WIDTH }, (_, i) => Math.sin(i * 0.7) * (1 + i % 5));
        const chain = new Chain();
        const chained = products(chain.add, (graph, last) => chain.end(graph, last));
        const wanted = await run(products(ownNode, (_, last) => last), x, rows);
        for (const threads of [1, 2]) deepEqual(await run(chained, x, rows, threads), wanted);
      }
    });

    const cases: Readonly<Record<string, [Record<string, Attribute>, RegExp]>> = {
      "that is no operator": [{ "0.operator": "Softmax" }, /part 0\. is "Softmax"/],
      "of a name without end": [{ "0.operator": "Prefix".repeat(10) }, /size|buffer/i],
      "with more operands than there are": [{ operand_counts: [6] }, /part 0 has 6 operands, wanted 1 to 5/],
      "beside operands of no part": [{ operands: [0, -1, -1, -1, 1, 0] }, /6 operands, wanted 5/],
      "that takes an input which is not there": [{ operands: [2, -1, -1, -1, 1] }, /operand 0 of part 0 is 2/],
      "that takes its own output": [{ operands: [-2, -1, -1, -1, 1] }, /operand 0 of part 0 is -2/],
      "without the weights": [{ operands: [0, -1, -1, -1, -1] }, /Input 0\.4 must be a constant/],
      "that has nothing uncut": [{ "0.uncut": 0 }, /uncut 0/],
    };
    for (const [name, [attributes, message]] of Object.entries(cases)) {
      it(`refuses a part ${name}`, async () => {
        const graph = new GraphBuilder();
        const x = graph.input("x", ElementType.float32, ["rows", WIDTH]);
        const y = graph.op("Chain", [x, weightsFile(graph)], {
          domain: ESPALIER,
          attributes: {
            ...{ operand_counts: [5], operands: [0, -1, -1, -1, 1], "0.operator": "PrefixMatMul" },
            ...Object.fromEntries(Object.entries(productOf(0)).map(([name, value]) => [`0.${name}`, value])),
            ...attributes,
          },
        });
        graph.output("y", y, ElementType.float32);
        await rejects(openRuntime().openSession({ model: graph.build(), threads: 1, operators }), message);
      });
    }

    it("says what is wrong with a run's input", async () => {
      const chain = new Chain();
      const model = products(chain.add, (graph, last) => chain.end(graph, last), ["rows", "columns"]);
      await rejects(run(model, new Float32Array(10), 2, 1, 5), /x has 10 elements in 2 rows, wanted 64 a row/);
    });
  });
}

/** Columns and rows of the matrices. */
const WIDTH = 64;
const [BLOCK, MATRICES] = [32, 4];
const CODE_BYTES = WIDTH * WIDTH / 2;
const MATRIX_BYTES = CODE_BYTES + WIDTH * WIDTH / BLOCK * 2;

function weightsFile(graph: GraphBuilder): Value {
  const file = new Uint8Array(MATRICES * MATRIX_BYTES);
  for (let matrix = 0; matrix < MATRICES; matrix++) {
    const [begin, end] = [matrix * MATRIX_BYTES, (matrix + 1) * MATRIX_BYTES];
    for (let i = begin; i < begin + CODE_BYTES; i++) file[i] = (i * 73 + 41) % 251;
    const scales = Float16Array.from({ length: (end - begin - CODE_BYTES) / 2 }, (_, i) => (1 + i % 17) / 256);
    file.set(new Uint8Array(scales.buffer), begin + CODE_BYTES);
  }
  return graph.initializer("file", ElementType.uint8, [file.length], file);
}

/** Attributes of a product with one of the file's matrices. */
function productOf(matrix: number): Record<string, Attribute> {
  return {
    ...{ cut: 0, activation: 0, groups: [1], uncut: WIDTH, block_size: BLOCK, epsilon: { float: 0 } },
    ...{ widths: [WIDTH], levels: [0], biases: [0] },
    places: [matrix * MATRIX_BYTES, matrix * MATRIX_BYTES + CODE_BYTES],
  };
}

/** Four products one behind another. The third and the fourth add what the first gave, so that nothing may lie on it. */
function products(
  add: AddOperator,
  end: (graph: GraphBuilder, last: Value) => Value,
  shape: (string | number)[] = ["rows", WIDTH],
): Model {
  const graph = new GraphBuilder();
  const x = graph.input("x", ElementType.float32, shape);
  const file = weightsFile(graph);
  const product = (matrix: number, x: Value, residual: Value = ABSENT) =>
    add(graph, "PrefixMatMul", [x, ABSENT, ABSENT, residual, file], productOf(matrix));
  const first = product(0, x);
  const second = product(1, first);
  const third = product(2, second, first);
  graph.output("y", end(graph, product(3, third, first)), ElementType.float32);
  return graph.build();
}

async function run(model: Model, data: Float32Array<ArrayBuffer>, rows: number, threads = 1, columns = WIDTH) {
  const runtime = openRuntime();
  const session = await runtime.openSession({ model, threads, operators: kernels!.path });
  try {
    const out = new Float32Array(rows * WIDTH);
    using input = runtime.tensor(ElementType.float32, [rows, columns], data);
    using output = runtime.tensor(ElementType.float32, [rows, WIDTH], out);
    using binding = session.bind();
    await binding.input("x", input).output("y", output).run();
    return out;
  } finally {
    session.close();
  }
}
