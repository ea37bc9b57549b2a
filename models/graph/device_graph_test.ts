import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import { ElementType, GraphBuilder, type Model, openRuntime } from "../../onnx/mod.ts";
import { TINY_BAMBA, TINY_LLAMA, TINY_MAMBA2, TINY_NEMOTRON_H, TINY_QWEN } from "../../tests/support/tiny_models.ts";
import { type Artefact, openArtefact } from "../artefact.ts";
import type { ModelConfig } from "../description.ts";
import { poolsOf } from "../pools.ts";
import { type RandomArtefactOptions, writeRandomArtefact } from "../random_artefact.ts";
import { decoderGraph } from "./decoder.ts";
import { rotaryAngles, tabledAngles } from "./rotary.ts";

const MODELS: Readonly<Record<string, Pick<RandomArtefactOptions, "config" | "attentionBiases" | "layers">>> = {
  llama: { config: TINY_LLAMA },
  qwen2: { config: TINY_QWEN, attentionBiases: true },
  mamba2: { config: TINY_MAMBA2 },
  "nemotron-h": { config: TINY_NEMOTRON_H, layers: [["mamba"], ["mlp"], ["attention"], ["mamba"]] },
  bamba: { config: TINY_BAMBA, layers: [["mamba", "gatedMlp"], ["attention", "gatedMlp"]] },
};

for (const [name, model] of Object.entries(MODELS)) {
  describe(`The graph of a tiny ${name} for a CUDA device`, () => {
    let folder: string;
    let artefact: Artefact;
    let graph: Model;
    beforeAll(async () => {
      folder = await Deno.makeTempDir();
      await writeRandomArtefact(folder, { ...model, blockSize: 32, seed: 7 });
      artefact = await openArtefact(folder);
      graph = decoderGraph(artefact.plan, artefact.weights(), { lanes: 3, operators: "cuda", capacity: 32 });
    });
    afterAll(() => Deno.remove(folder, { recursive: true }));

    it("has our operators and rows gathered by index, and nothing that would run on the host", () => {
      const stock = graph.nodes.filter(({ domain }) => domain !== "espalier.cuda").map(({ op }) => op);
      // What carries an output's name is taken out when a session is opened.
      deepEqual([...new Set(stock)].sort(), ["Gather", "Identity"]);
      const count = (op: string) => graph.nodes.filter((node) => node.op === op).length;
      const blocks = artefact.plan.layers.flat();
      const kinds = (kind: string) => blocks.filter((block) => block.kind === kind).length;
      equal(count("StepPlan"), 1);
      equal(count("Embed"), 1);
      equal(count("CachedAttention"), kinds("attention"));
      equal(count("SelectiveScan"), kinds("mamba"));
      equal(count("PrefixMatMul"), 2 * blocks.length + 1);
      equal(count("Identity"), poolsOf(artefact.plan).length + 2);
      equal(count("Likeliest"), 1);
      equal(count("Gather"), artefact.plan.config.rope.rotaryDim === 0 || kinds("attention") === 0 ? 1 : 3);
    });

    it("asks for pools of all lanes at full width, whatever the levels keep", () => {
      const inputs = new Map(graph.inputs.map(({ name, type, shape }) => [name, { type, shape }]));
      for (const { past, type, shape } of poolsOf(artefact.plan)) {
        deepEqual(inputs.get(past), { type, shape: shape("slots", "capacity") });
        ok(shape(4, 32).every((size) => Number.isInteger(size) && size > 0));
      }
      deepEqual(inputs.get("lane_slots"), { type: ElementType.int64, shape: [3] });
      equal(inputs.size, 7 + poolsOf(artefact.plan).length);
    });

    it("defines every name once", () => {
      const defined = [
        ...graph.inputs.map(({ name }) => name),
        ...graph.initializers.map(({ name }) => name),
        ...graph.nodes.flatMap(({ outputs }) => outputs),
      ];
      const twice = defined.filter((name, index) => name !== "" && defined.indexOf(name) !== index);
      deepEqual(twice, []);
    });

    it("norms inside the head's product", () => {
      const head = graph.nodes.findLast(({ op }) => op === "PrefixMatMul")!;
      deepEqual(head.inputs.slice(1, 4), ["", "final_norm", ""]);
    });
  });
}

describe("tabledAngles()", () => {
  it("gives a row the same bits whatever rows are beside it", async () => {
    const graph = new GraphBuilder();
    const positions = graph.input("positions", ElementType.int64, ["rows"]);
    const { cosines, sines } = tabledAngles(graph, TINY_BAMBA, positions, 400);
    const width = frequencies(graph.build(), cosines);
    graph.output("cosines", cosines, ElementType.float32);
    graph.output("sines", sines, ElementType.float32);
    const runtime = openRuntime();
    using session = await runtime.openSession({ model: graph.build(), threads: 1 });
    using binding = session.bind();
    const anglesOf = async (first: number, count: number) => {
      const rows = BigInt64Array.from({ length: count }, (_, i) => BigInt(first + i));
      const results = ["cosines", "sines"].map((name) => {
        const data = new Float32Array(count * width);
        binding.output(name, runtime.tensor(ElementType.float32, [count, width], data));
        return data;
      });
      await binding.input("positions", runtime.tensor(ElementType.int64, [count], rows)).run();
      return results;
    };
    const together = await anglesOf(0, 400);
    // At 95 and 170 `rotaryAngles` would give another bit with two rows before it than alone.
    for (const first of [95, 170, 361]) {
      for (const before of [0, 2]) {
        const found = await anglesOf(first - before, before + 1);
        found.forEach((values, i) =>
          deepEqual(values.slice(before * width), together[i]!.slice(first * width, (first + 1) * width))
        );
      }
    }
  });

  for (const [name, config] of Object.entries({ llama: TINY_LLAMA, bamba: TINY_BAMBA }) as [string, ModelConfig][]) {
    it(`looks up what rotaryAngles() computes, far positions too: ${name}`, async () => {
      const length = 5000;
      const graph = new GraphBuilder();
      const positions = graph.input("positions", ElementType.int64, ["rows"]);
      const [computed, tabled] = [
        rotaryAngles(graph, config, positions),
        tabledAngles(graph, config, positions, length),
      ];
      const values = [computed.cosines, tabled.cosines, computed.sines, tabled.sines];
      values.forEach((value, index) => graph.output(`y${index}`, value, ElementType.float32));
      const runtime = openRuntime();
      using session = await runtime.openSession({ model: graph.build(), threads: 1 });
      using binding = session.bind();
      const rows = BigInt64Array.of(0n, 1n, 17n, 4096n, BigInt(length - 1));
      binding.input("positions", runtime.tensor(ElementType.int64, [rows.length], rows));
      const width = frequencies(graph.build(), tabled.cosines);
      const results = values.map((_, index) => {
        const data = new Float32Array(rows.length * width);
        binding.output(`y${index}`, runtime.tensor(ElementType.float32, [rows.length, width], data));
        return data;
      });
      await binding.run();
      for (const [a, b] of [[results[0]!, results[1]!], [results[2]!, results[3]!]] as const) {
        a.forEach((value, i) => ok(Math.abs(value - b[i]!) < 1e-6, `${value} and ${b[i]}`));
      }
      ok(results[0]!.some((value) => value < 0.9));
    });
  }
});

/** Columns of the table that a value was gathered from. */
function frequencies({ nodes, initializers }: Model, gathered: string): number {
  const table = nodes.find(({ outputs }) => outputs.includes(gathered))!.inputs[0];
  return initializers.find(({ name }) => name === table)!.shape[1]!;
}
