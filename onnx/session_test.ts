import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { cudaDevice, ElementType, GraphBuilder, openRuntime, type Session, type Value } from "./mod.ts";
import { OrtError } from "./c_api.ts";

const runtime = openRuntime();
const { float32, int64, uint8 } = ElementType;

/** y = (x + x) · w, with w [2, 2] swapping the columns. */
function swapAndDouble() {
  const graph = new GraphBuilder();
  const x = graph.input("x", float32, ["rows", 2]);
  const product = graph.op("MatMul", [graph.op("Add", [x, x]), graph.floats([0, 1, 1, 0], [2, 2])]);
  graph.output("y", product, float32, ["rows", 2]);
  return graph.build();
}

/** Long enough to be cancelled and to notice whether the event loop is free. */
function manyProducts() {
  const graph = new GraphBuilder();
  let x: Value = graph.input("x", float32, [512, 512]);
  for (let i = 0; i < 200; i++) x = graph.op("MatMul", [x, x]);
  graph.output("y", x, float32);
  return graph.build();
}

describe("Session", () => {
  let session: Session;
  beforeAll(async () => {
    session = await runtime.openSession({ model: swapAndDouble(), threads: 1 });
  });
  afterAll(() => session.close());

  it("knows its names", () => {
    deepEqual([session.inputNames, session.outputNames], [["x"], ["y"]]);
  });

  it("reads and writes bound memory in place, run after run", async () => {
    using binding = session.bind();
    const x = runtime.tensor(float32, [2, 2], Float32Array.of(1, 2, 3, 4));
    const y = runtime.tensor(float32, [2, 2], new Float32Array(4));
    await binding.input("x", x).output("y", y).run();
    deepEqual([...y.data], [4, 2, 8, 6]);
    x.data[0] = 10;
    await binding.run();
    deepEqual([...y.data], [4, 20, 8, 6]);
  });

  it("takes another number of rows after rebinding", async () => {
    using binding = session.bind();
    for (const rows of [3, 1, 2]) {
      const y = runtime.tensor(float32, [rows, 2], new Float32Array(2 * rows));
      const x = runtime.tensor(float32, [rows, 2], Float32Array.from({ length: 2 * rows }, (_, i) => i));
      await binding.input("x", x).output("y", y).run();
      deepEqual([...y.data.slice(0, 2)], [2, 0]);
    }
  });

  it("reports the runtime's errors and stays usable", async () => {
    using binding = session.bind();
    const wrong = runtime.tensor(float32, [1, 3], new Float32Array(3));
    const y = runtime.tensor(float32, [1, 2], new Float32Array(2));
    binding.input("x", wrong).output("y", y);
    await rejects(binding.run(), OrtError);
    await binding.input("x", runtime.tensor(float32, [1, 2], Float32Array.of(1, 0))).run();
    deepEqual([...y.data], [0, 2]);
  });

  it("refuses names that the graph does not have", () => {
    using binding = session.bind();
    const tensor = runtime.tensor(float32, [1, 2], new Float32Array(2));
    throws(() => binding.input("z", tensor), /Cannot bind input "z": the graph has x/);
    throws(() => binding.output("x", tensor), /Cannot bind output "x": the graph has y/);
  });

  it("refuses a graph that is none, with the runtime's reason", async () => {
    const graph = new GraphBuilder();
    graph.output("y", graph.op("NoSuchOperator", [graph.input("x", float32, [1])]), float32);
    await rejects(runtime.openSession({ model: graph.build(), threads: 1 }), /NoSuchOperator/);
  });

  it("refuses work after it was closed", async () => {
    const own = await runtime.openSession({ model: swapAndDouble(), threads: 1 });
    const binding = own.bind();
    own.close();
    own.close();
    await rejects(binding.run(), /after it was closed/);
    throws(() => own.bind(), /after it was closed/);
  });
});

describe("Binding.run()", () => {
  it("leaves the event loop free, refuses a second run meanwhile, and stops when asked", async () => {
    using session = await runtime.openSession({ model: manyProducts(), threads: 1 });
    using binding = session.bind();
    const x = runtime.tensor(float32, [512, 512], new Float32Array(512 * 512));
    const y = runtime.tensor(float32, [512, 512], new Float32Array(512 * 512));
    binding.input("x", x).output("y", y);

    const stop = new AbortController();
    const running = binding.run(stop.signal);
    let ticks = 0;
    const ticker = setInterval(() => ticks++, 0);
    await rejects(binding.run(), /while it is running/);
    throws(() => session.close(), /while it is running/);
    await new Promise((resolve) => setTimeout(resolve));
    stop.abort(new Error("enough"));
    await rejects(running, /enough/);
    clearInterval(ticker);
    ok(ticks > 0);

    await binding.run(); // the flag is gone
    await rejects(binding.run(AbortSignal.abort(new Error("never started"))), /never started/);
  });
});

describe("A session on a CUDA device", () => {
  const problem = runtime.cudaProblem();

  it("is refused by name where the runtime cannot make one", async () => {
    if (problem === null) return;
    ok(/cuda|shared|provider/i.test(problem), problem);
    await rejects(
      runtime.openSession({ model: swapAndDouble(), threads: 1, cuda: { capture: false, everyNode: true } }),
      (error: Error) => error.message === problem,
    );
  });

  it("alone captures runs", async () => {
    using session = await runtime.openSession({ model: swapAndDouble(), threads: 1 });
    throws(() => session.bind({ capturedGraph: 1 }), /Cannot capture the runs of a session that was not opened to/);
  });

  it("is told apart from the CPU by what is bound", () => {
    const memory = { address: Deno.UnsafePointer.of(new Float32Array(4))!, bytes: 16 };
    throws(() => runtime.deviceTensor(float32, [5], memory), /it needs 20 bytes, the memory has 16/);
    const tensor = runtime.deviceTensor(float32, [2, 2], memory);
    tensor.close();
    tensor.close();
    throws(() => tensor.value, /after it was closed/);
  });
});

describe("cudaDevice()", () => {
  it("names the device, or says what is missing", () => {
    try {
      const { name, computeCapability } = cudaDevice();
      ok(name.length > 0 && /^\d+\.\d$/.test(computeCapability));
    } catch (error) {
      ok(
        /Cannot (load NVIDIA's driver|start CUDA's driver|use CUDA|count CUDA devices)/.test((error as Error).message),
      );
    }
  });
});

describe("Constants", () => {
  it("come from a file beside the model, at any offset", async () => {
    const folder = await Deno.makeTempDir();
    try {
      await Deno.writeFile(`${folder}/weights.bin`, new Uint8Array([9, 9, 9, 1, 2, 3, 4, 9]));
      const graph = new GraphBuilder();
      const rows = graph.input("rows", int64, ["n"]);
      const table = graph.initializer("table", uint8, [4, 1], { file: "weights.bin", offset: 3, length: 4 });
      graph.output("picked", graph.op("Gather", [table, rows]), uint8);
      using session = await runtime.openSession({ model: graph.build(), threads: 1, folder });
      using binding = session.bind();
      const picked = runtime.tensor(uint8, [2, 1], new Uint8Array(2));
      await binding.input("rows", runtime.tensor(int64, [2], BigInt64Array.of(3n, 0n))).output("picked", picked).run();
      deepEqual([...picked.data], [4, 1]);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

describe("Tensor", () => {
  it("refuses an array of another size", () => {
    throws(() => runtime.tensor(float32, [2, 2], new Float32Array(3)), /needs 16 bytes, the array has 12/);
  });
});

describe("GraphBuilder", () => {
  it("adds a node once, however often it is asked for", () => {
    const graph = new GraphBuilder();
    const x = graph.input("x", float32, [2]);
    equal(graph.op("Neg", [x]), graph.op("Neg", [x]));
    equal(graph.integers([1, 2]), graph.integers([1, 2]));
    ok(graph.integers(1) !== graph.integers([1]));
    ok(graph.op("Abs", [x]) !== graph.op("Neg", [x]));
    equal(graph.build().nodes.length, 2);
  });

  it("refuses two inputs of one name", () => {
    const graph = new GraphBuilder();
    graph.input("x", float32, [2]);
    throws(() => graph.input("x", float32, [2]), /has one of that name/);
  });
});
