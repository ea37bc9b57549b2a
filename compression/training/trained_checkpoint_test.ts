import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { type Checkpoint, openCheckpoint } from "../../models/checkpoint.ts";
import { openDecoder } from "../../models/decoder.ts";
import type { ModelPlan } from "../../models/plan.ts";
import { Tokenizer } from "../../models/tokenizer.ts";
import { ElementType, openRuntime } from "../../onnx/mod.ts";
import { constantWeights, packedParameters } from "./checkpoint_weights.ts";
import type { ParameterLayout } from "./parameters.ts";
import { logitsModel } from "./testing/logits_model.ts";
import { TINY, TINY_CONFIGS, tinyLlama, type TinyModel, tinyModel } from "./testing/tiny_models.ts";
import { trainedTensors, writeTrainedCheckpoint } from "./trained_checkpoint.ts";
import { trainTokenizer } from "./train_tokenizer.ts";

const tokenizer = trainTokenizer(["once upon a time, once again"], 260);

const FAMILIES = Object.keys(TINY_CONFIGS) as (keyof typeof TINY_CONFIGS)[];

describe("writeTrainedCheckpoint()", () => {
  for (const family of FAMILIES) {
    it(`writes a ${family} that opens as the same model`, () => {
      const model = tinyModel(family);
      return withCheckpoint(model, async (checkpoint) => {
        deepEqual(checkpoint.description, model.description);
        equal(new Tokenizer(checkpoint.tokenizer!).vocabSize, 260);
        const packed = await packedParameters(checkpoint, model.plan);
        deepEqual([...packed.keys()].sort(), [...model.layout.places.keys()].sort());
        for (const [name, data] of packed) deepEqual(data, model.layout.view(model.weights, name), name);
      });
    });
  }

  it("writes halves where training has neighbouring pairs: a plain rotate-half Llama gives the same logits", async () => {
    const model = tinyLlama();
    const ids = [0, 7, 31, 7, 12];
    const [logits] = await trainingLogits([ids], model.plan, model.layout, model.weights);
    await withCheckpoint(model, async (checkpoint) => {
      const tensors = new Map<string, Float32Array>();
      for (const name of checkpoint.tensors.keys()) tensors.set(name, await checkpoint.read(name));
      isNear(logits!, plainLlama(tensors, ids));
    });
  });

  it("refuses a model with tensors that are not trained", () => {
    const { description, plan, layout, weights } = tinyLlama();
    throws(() => trainedTensors({ ...description, head: "lm_head.weight" }, plan, layout, weights), {
      name: "RangeError",
      message: /head/,
    });
  });
});

describe("constantWeights()", () => {
  for (const family of FAMILIES) {
    it(`decodes with a ${family} token by token what the training graph computes at once`, () => decodesAlike(family));
  }
});

async function decodesAlike(family: keyof typeof TINY_CONFIGS): Promise<void> {
  const { plan, layout, weights } = tinyModel(family);
  const sequences = [[0, 7, 31, 7, 12], [0, 1, 2, 3, 39]];
  const expected = await trainingLogits(sequences, plan, layout, weights);
  const parameters = new Map(layout.places.keys().map((name) => [name, layout.view(weights, name)]));
  using decoder = await openDecoder(openRuntime(), {
    plan,
    weights: constantWeights(parameters, plan),
    folder: ".",
    lanes: 2,
    maxTokens: 8,
    maxRows: 2,
    threads: 1,
  });
  const open = sequences.map((ids) => ({ ids, sequence: decoder.openSequence(0) }));
  for (let position = 0; position < 5; position++) {
    const logits = await decoder.step(
      open.map(({ ids, sequence }) => ({ sequence, tokens: [ids[position]!], logits: "last" })),
    );
    logits.forEach((own, i) =>
      isNear(own, expected[i]!.subarray(position * TINY.vocabSize, (position + 1) * TINY.vocabSize))
    );
  }
}

async function withCheckpoint(model: TinyModel, use: (checkpoint: Checkpoint) => Promise<void>): Promise<void> {
  const { rawConfig, description, plan, layout, weights } = model;
  const folder = await Deno.makeTempDir();
  try {
    const tensors = trainedTensors(description, plan, layout, weights);
    await writeTrainedCheckpoint(folder, {
      tensors,
      rawConfig,
      config: description.config,
      tokenizer,
      provenance: { seed: "5" },
    });
    using checkpoint = await openCheckpoint(folder);
    await use(checkpoint);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Logits `[tokens, V]` of sequences of equal length, by the graph that is trained. */
async function trainingLogits(
  sequences: readonly (readonly number[])[],
  plan: ModelPlan,
  layout: ParameterLayout,
  weights: Float32Array<ArrayBuffer>,
): Promise<Float32Array[]> {
  const runtime = openRuntime();
  const shape = { sequences: sequences.length, length: sequences[0]!.length };
  const rows = shape.sequences * shape.length;
  using session = await runtime.openSession({ model: logitsModel(plan, shape), threads: 1 });
  const logits = new Float32Array(rows * TINY.vocabSize);
  const binding = session.bind()
    .input("tokens", runtime.tensor(ElementType.int64, [rows], BigInt64Array.from(sequences.flat(), BigInt)))
    .output("logits", runtime.tensor(ElementType.float32, [rows, TINY.vocabSize], logits));
  for (const [name, tensor] of layout.tensors(runtime, weights)) binding.input(name, tensor);
  await binding.run();
  const size = shape.length * TINY.vocabSize;
  return sequences.map((_, i) => logits.subarray(i * size, (i + 1) * size));
}

/** Both are float32 sums of up to 48 products; logits are near 10. */
function isNear(found: ArrayLike<number>, expected: ArrayLike<number>): void {
  equal(found.length, expected.length);
  for (let i = 0; i < found.length; i++) {
    ok(Math.abs(found[i]! - expected[i]!) < 1e-4, `${i}: ${found[i]}, expected ${expected[i]}`);
  }
}

/** Llama as its checkpoints are meant, in float64 and loops: logits `[tokens, V]`. */
function plainLlama(tensors: ReadonlyMap<string, Float32Array>, ids: readonly number[]): number[] {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K, numHiddenLayers, rmsNormEps, rope } = TINY;
  const tensor = (name: string) => tensors.get(name)!;
  const linear = (x: readonly number[], name: string) => {
    const weight = tensor(name);
    return Array.from(
      { length: weight.length / x.length },
      (_, row) => x.reduce((sum, value, i) => sum + value * weight[row * x.length + i]!, 0),
    );
  };
  const norm = (x: readonly number[], name: string) => {
    const root = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + rmsNormEps);
    return x.map((value, i) => value / root * tensor(name)[i]!);
  };
  const head = (x: readonly number[], index: number) => x.slice(index * K, (index + 1) * K);
  const rotate = (x: readonly number[], position: number) =>
    x.map((value, i) => {
      const angle = position * rope.theta ** (-2 * (i % (K / 2)) / K);
      const partner = i < K / 2 ? -x[i + K / 2]! : x[i - K / 2]!;
      return value * Math.cos(angle) + partner * Math.sin(angle);
    });
  const add = (a: readonly number[], b: readonly number[]) => a.map((value, i) => value + b[i]!);

  let hidden = ids.map((id) => rowOf(tensor("model.embed_tokens.weight"), id));
  for (let layer = 0; layer < numHiddenLayers; layer++) {
    const prefix = `model.layers.${layer}`;
    const normed = hidden.map((x) => norm(x, `${prefix}.input_layernorm.weight`));
    const [queries, keys, values] = ["q", "k", "v"].map((name) =>
      normed.map((x) => linear(x, `${prefix}.self_attn.${name}_proj.weight`))
    );
    hidden = hidden.map((x, t) => {
      const attended = Array.from({ length: H }, (_, h) => {
        const group = Math.floor(h / (H / G));
        const query = rotate(head(queries![t]!, h), t);
        const scores = ids.slice(0, t + 1).map((_, s) => {
          const key = rotate(head(keys![s]!, group), s);
          return Math.exp(query.reduce((sum, value, i) => sum + value * key[i]!, 0) / Math.sqrt(K));
        });
        const total = scores.reduce((a, b) => a + b);
        return Array.from(
          { length: K },
          (_, i) => scores.reduce((sum, score, s) => sum + score / total * head(values![s]!, group)[i]!, 0),
        );
      }).flat();
      return add(x, linear(attended, `${prefix}.self_attn.o_proj.weight`));
    });
    hidden = hidden.map((x) => {
      const normed = norm(x, `${prefix}.post_attention_layernorm.weight`);
      const up = linear(normed, `${prefix}.mlp.up_proj.weight`);
      const gated = linear(normed, `${prefix}.mlp.gate_proj.weight`).map((gate, i) =>
        gate / (1 + Math.exp(-gate)) * up[i]!
      );
      return add(x, linear(gated, `${prefix}.mlp.down_proj.weight`));
    });
  }
  return hidden.flatMap((x) => linear(norm(x, "model.norm.weight"), "model.embed_tokens.weight"));

  function rowOf(matrix: Float32Array, row: number): number[] {
    return [...matrix.subarray(row * TINY.hiddenSize, (row + 1) * TINY.hiddenSize)];
  }
}
