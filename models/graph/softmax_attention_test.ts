import { describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { ElementType, GraphBuilder, openRuntime } from "../../onnx/mod.ts";
import type { ModelConfig } from "../description.ts";
import { type AttentionPlan, planModel } from "../plan.ts";
import type { RotatedAttention } from "./block_context.ts";
import { causalAttention } from "./causal_attention.ts";
import { softmaxAttention } from "./softmax_attention.ts";

const CONFIG: ModelConfig = {
  family: "llama",
  hiddenSize: 32,
  intermediateSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 6,
  numKeyValueHeads: 2,
  headDim: 8,
  vocabSize: 16,
  rmsNormEps: 1e-5,
  maxPositionEmbeddings: 64,
  rope: { theta: 10_000, scaling: null },
  tieWordEmbeddings: true,
  bosTokenId: null,
  eosTokenIds: [],
};
const PACKED_HEADS = CONFIG.numAttentionHeads + 2 * CONFIG.numKeyValueHeads;

async function attend(
  coreOf: (graph: GraphBuilder) => RotatedAttention,
  packed: Float32Array<ArrayBuffer>,
): Promise<Float32Array> {
  const { numAttentionHeads, headDim } = CONFIG;
  const spec = { kind: "attention" as const, widths: [headDim], queryKeyBias: false, outputBias: false };
  const block = planModel(CONFIG, [[spec]]).layers[0]![0] as AttentionPlan;
  const rows = packed.length / (PACKED_HEADS * headDim);
  const graph = new GraphBuilder();
  const input = graph.input("packed", ElementType.float32, ["rows", PACKED_HEADS, headDim]);
  graph.output("attended", coreOf(graph).attend(graph, input, block), ElementType.float32);
  const runtime = openRuntime();
  using session = await runtime.openSession({ model: graph.build(), threads: 1 });
  const size = rows * numAttentionHeads * headDim;
  using output = runtime.tensor(
    ElementType.float32,
    [rows, numAttentionHeads, headDim],
    new Float32Array(size).fill(NaN),
  );
  using tensor = runtime.tensor(ElementType.float32, [rows, PACKED_HEADS, headDim], packed);
  await session.bind().input("packed", tensor).output("attended", output).run();
  return output.data;
}

describe("softmaxAttention()", () => {
  const length = 7;
  const sequences = 3;
  const perSequence = length * PACKED_HEADS * CONFIG.headDim;
  const random = xoroshiro128plus(3);
  const packed = Float32Array.from({ length: sequences * perSequence }, () => 4 * uniformFloat64(random) - 2);

  it("equals causal attention of each sequence by itself", async () => {
    const all = await attend((graph) => softmaxAttention(graph, CONFIG, length), packed);
    const size = all.length / sequences;
    for (let sequence = 0; sequence < sequences; sequence++) {
      const own = packed.slice(sequence * perSequence, (sequence + 1) * perSequence);
      const alone = await attend(() => causalAttention(CONFIG), own);
      equal(alone.length, size);
      // Both are float32 with sums of 8 and 7 products of numbers up to 2.
      alone.forEach((value, i) => ok(Math.abs(value - all[sequence * size + i]!) < 2e-6, `${sequence}, ${i}`));
    }
  });

  it("lets no token see a later one", async () => {
    const changed = packed.slice();
    const lastToken = perSequence - PACKED_HEADS * CONFIG.headDim;
    for (let i = lastToken; i < perSequence; i++) changed[i]! += 1;
    const core = (graph: GraphBuilder) => softmaxAttention(graph, CONFIG, length);
    const [before, after] = [await attend(core, packed), await attend(core, changed)];
    const width = CONFIG.numAttentionHeads * CONFIG.headDim;
    const differs = before.map((value, i) => value === after[i] ? 0 : 1);
    const rowsThatDiffer = Array.from(
      { length: sequences * length },
      (_, row) => row,
    ).filter((row) => differs.subarray(row * width, (row + 1) * width).includes(1));
    equal(rowsThatDiffer.join(), String(length - 1));
  });
});
