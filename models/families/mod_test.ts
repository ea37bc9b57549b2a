import { describe as suite, it } from "@std/testing/bdd";
import { deepEqual, equal, throws } from "node:assert/strict";
import { expectedTensors, type GatedMlpBlock, type LinearNames } from "../description.ts";
import { describe, SUPPORTED_ARCHITECTURES } from "./mod.ts";

const LLAMA = {
  architectures: ["LlamaForCausalLM"],
  hidden_act: "silu",
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 2,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  vocab_size: 512,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 2048,
  tie_word_embeddings: false,
  transformers_version: "4.44.0",
};
const QWEN2 = { ...LLAMA, architectures: ["Qwen2ForCausalLM"], use_sliding_window: false, sliding_window: 128 };
const MISTRAL = { ...LLAMA, architectures: ["MistralForCausalLM"], sliding_window: null };
const ARCEE = { ...LLAMA, architectures: ["ArceeForCausalLM"], hidden_act: "relu2" };
const LLAMA3 = { factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };

function refuses(config: unknown, message: RegExp): void {
  throws(() => describe(config), (error) => error instanceof RangeError && message.test(error.message));
}

function attentionBiases(config: unknown): (string | undefined)[] {
  const [block] = describe(config).layers[1]!;
  if (block?.kind !== "attention") throw new Error("the first block of a layer is attention");
  return [block.query, block.key, block.value, block.output].map(({ bias }: LinearNames) => bias);
}

suite("describe()", () => {
  it("lists every tensor of a Llama with its shape", () => {
    const shapes = expectedTensors(describe(LLAMA));
    equal(shapes.size, 3 + 2 * 9);
    deepEqual([...shapes].filter(([name]) => !name.startsWith("model.layers.1.")), [
      ["model.embed_tokens.weight", [512, 64]],
      ["model.layers.0.input_layernorm.weight", [64]],
      ["model.layers.0.self_attn.q_proj.weight", [64, 64]],
      ["model.layers.0.self_attn.k_proj.weight", [32, 64]],
      ["model.layers.0.self_attn.v_proj.weight", [32, 64]],
      ["model.layers.0.self_attn.o_proj.weight", [64, 64]],
      ["model.layers.0.post_attention_layernorm.weight", [64]],
      ["model.layers.0.mlp.gate_proj.weight", [172, 64]],
      ["model.layers.0.mlp.up_proj.weight", [172, 64]],
      ["model.layers.0.mlp.down_proj.weight", [64, 172]],
      ["model.norm.weight", [64]],
      ["lm_head.weight", [512, 64]],
    ]);
  });

  it("expects no head of a tied model", () => {
    const description = describe({ ...LLAMA, tie_word_embeddings: true });
    equal(description.head, null);
    equal(expectedTensors(description).has("lm_head.weight"), false);
  });

  it("takes as many key/value heads as query heads where none are given", () => {
    const { num_key_value_heads: _, ...config } = LLAMA;
    equal(describe(config).config.numKeyValueHeads, 8);
  });

  it("takes the head size that is given, even where heads do not fill the hidden size", () => {
    equal(describe(LLAMA).config.headDim, 8);
    const wide = describe({ ...LLAMA, head_dim: 24 });
    equal(wide.config.headDim, 24);
    deepEqual(expectedTensors(wide).get("model.layers.0.self_attn.q_proj.weight"), [192, 64]);
    deepEqual(expectedTensors(wide).get("model.layers.0.self_attn.o_proj.weight"), [64, 192]);
  });

  it("gives a Llama biases on all four projections, or none", () => {
    deepEqual(attentionBiases(LLAMA), [undefined, undefined, undefined, undefined]);
    deepEqual(
      attentionBiases({ ...LLAMA, attention_bias: true }),
      ["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => `model.layers.1.self_attn.${name}.bias`),
    );
  });

  it("says of a Qwen2 alone that a rotated residual stream hurts", () => {
    equal(describe(QWEN2).rotationHurts, true);
    equal(describe(LLAMA).rotationHurts, undefined);
  });

  it("gives a Qwen2 biases on q, k and v", () => {
    equal(describe(QWEN2).config.family, "qwen2");
    deepEqual(attentionBiases(QWEN2), [
      "model.layers.1.self_attn.q_proj.bias",
      "model.layers.1.self_attn.k_proj.bias",
      "model.layers.1.self_attn.v_proj.bias",
      undefined,
    ]);
  });

  for (
    const [spelling, fields] of [
      ["type", { rope_theta: 5e5, rope_scaling: { type: "llama3", ...LLAMA3 } }],
      ["rope_type", { rope_theta: 5e5, rope_scaling: { rope_type: "llama3", type: "ignored", ...LLAMA3 } }],
      ["rope_parameters", { rope_parameters: { rope_theta: 5e5, rope_type: "llama3", ...LLAMA3 } }],
    ] as const
  ) {
    it(`reads Llama 3's RoPE in the spelling of ${spelling}`, () => {
      deepEqual(describe({ ...LLAMA, ...fields }).config.rope, {
        theta: 5e5,
        scaling: {
          kind: "llama3",
          factor: 32,
          lowFreqFactor: 1,
          highFreqFactor: 4,
          originalMaxPositionEmbeddings: 8192,
        },
      });
    });
  }

  it("reads linear scaling, and none in every way to say so", () => {
    const rope = (fields: object) => describe({ ...LLAMA, ...fields }).config.rope;
    deepEqual(rope({ rope_scaling: { type: "linear", factor: 4 } }).scaling, { kind: "linear", factor: 4 });
    for (
      const fields of [{}, { rope_scaling: null }, { rope_scaling: { rope_type: "default" } }, {
        rope_parameters: { rope_type: "default", rope_theta: 1e4 },
      }]
    ) deepEqual(rope(fields), { theta: 1e4, scaling: null });
  });

  it("collects one or several end tokens without repeats", () => {
    const ids = (eos_token_id: unknown) => describe({ ...LLAMA, eos_token_id }).config.eosTokenIds;
    deepEqual([ids(2), ids([2, 5, 2]), ids(null), ids(undefined)], [[2], [2, 5], [], []]);
  });

  it("refuses other architectures and says which it supports", () => {
    const supported = SUPPORTED_ARCHITECTURES.join(", ");
    for (const other of ["GPT2LMHeadModel", "toString"]) {
      throws(
        () => describe({ ...LLAMA, architectures: [other] }),
        new RangeError(`The architecture ${other} is not supported; supported are ${supported}`),
      );
    }
    throws(
      () => describe({}),
      new RangeError(`Cannot tell the model's architecture: "architectures" must name one of ${supported}`),
    );
  });

  it("names every field that it cannot use, and what it found there", () => {
    refuses(
      { ...LLAMA, hidden_act: "gelu", num_attention_heads: 0, mlp_bias: true, vocab_size: 1.5, rms_norm_eps: NaN },
      /num_attention_heads.*; found 0\n.*vocab_size.*; found 1\.5\n.*rms_norm_eps.*; found NaN\n.*hidden_act.*; found "gelu"\n.*mlp_bias.*; found true/,
    );
  });

  for (
    const [what, fields, message] of [
      [
        "heads that key/value heads do not divide",
        { num_key_value_heads: 3 },
        /num_key_value_heads: 3 does not divide/,
      ],
      ["an odd head size", { head_dim: 7 }, /head_dim: 7 is odd/],
      [
        "heads that do not divide the hidden size",
        { num_attention_heads: 7, num_key_value_heads: 7 },
        /7 does not divide/,
      ],
      [
        "an end token outside the vocabulary",
        { eos_token_id: [2, 512] },
        /eos_token_id: 512 is not below vocab_size 512/,
      ],
      [
        "a RoPE scaling of another kind",
        { rope_scaling: { rope_type: "yarn", factor: 4 } },
        /rope_scaling.rope_type: wanted "default", "linear" or "llama3"; found "yarn"/,
      ],
      [
        "one in the older spelling",
        { rope_scaling: { type: "yarn", factor: 4 } },
        /rope_scaling.type: wanted "default", "linear" or "llama3"; found "yarn"/,
      ],
      ["one in the newest", { rope_parameters: { rope_type: "yarn" } }, /rope_parameters.rope_type: .*; found "yarn"/],
      ["a RoPE base below 1", { rope_theta: 0.5 }, /rope_theta: .*found 0\.5/],
      ["a RoPE scaling without its factor", { rope_scaling: { type: "linear" } }, /rope_scaling.factor.*found nothing/],
      ["bands in the wrong order", {
        rope_scaling: { rope_type: "llama3", ...LLAMA3, high_freq_factor: 1 },
      }, /high_freq_factor: must be greater/],
      ["RoPE on a part of the components", { partial_rotary_factor: 0.5 }, /partial_rotary_factor: only 1/],
      ["a checkpoint that is quantized", { quantization_config: { bits: 4 } }, /quantization_config.*already/],
    ] as const
  ) it(`refuses ${what}`, () => refuses({ ...LLAMA, ...fields }, message));

  it("describes a Mistral as a Llama, with no window or one that holds every sequence", () => {
    const { config, ...llama } = describe(LLAMA);
    const expected = { ...llama, config: { ...config, family: "mistral" } };
    for (const sliding_window of [null, 2048, 4096, undefined]) {
      deepEqual(describe({ ...MISTRAL, sliding_window }), expected);
    }
  });

  it("refuses a Mistral with a window that some sequence is longer than, be it transformers' own", () => {
    refuses({ ...MISTRAL, sliding_window: 2047 }, /sliding_window: .* sliding windows are not supported; found 2047/);
    const { sliding_window: _, ...without } = MISTRAL;
    refuses({ ...without, max_position_embeddings: 4097 }, /sliding_window: .*; found nothing/);
  });

  it("describes an Arcee as a Llama whose MLPs have no gate", () => {
    const { layers } = describe(ARCEE);
    const { layers: [llama] } = describe(LLAMA);
    const { gate: _, ...others } = llama![1] as GatedMlpBlock;
    deepEqual(layers[0], [llama![0], { ...others, kind: "mlp" }]);
    const { hidden_act: __, ...older } = ARCEE;
    deepEqual(describe(older).layers, layers);
  });

  it("refuses an Arcee with another activation, or with biases", () => {
    refuses({ ...ARCEE, hidden_act: "silu" }, /hidden_act: only "relu2" is supported; found "silu"/);
    refuses({ ...ARCEE, attention_bias: true }, /attention_bias: attention with biases is not supported; found true/);
    refuses({ ...ARCEE, mlp_bias: true }, /mlp_bias: MLPs with biases are not supported; found true/);
  });

  it("refuses a Qwen2 with sliding windows", () => {
    refuses({ ...QWEN2, use_sliding_window: true }, /use_sliding_window: sliding windows are not supported/);
    refuses({ ...QWEN2, layer_types: ["full_attention", "sliding_attention"] }, /layer_types.1: sliding windows/);
  });
});
