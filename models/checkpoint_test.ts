import { afterEach, beforeEach, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import { expectedTensors } from "./description.ts";
import { describe as describeModel } from "./families/mod.ts";
import { type SafetensorsEntry, SafetensorsWriter } from "./safetensors_writer.ts";

const CONFIG = {
  architectures: ["LlamaForCausalLM"],
  hidden_act: "silu",
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 32,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
};

interface Stored {
  dtype: SafetensorsEntry["dtype"];
  shape: readonly number[];
  data: ArrayBufferView<ArrayBuffer>;
}
type Weights = Map<string, Stored>;

/** Random float32 weights for {@linkcode CONFIG}. */
function randomWeights(): Weights {
  const random = xoroshiro128plus(20261123);
  return new Map([...expectedTensors(describeModel(CONFIG))].map(([name, shape]) => {
    const length = shape.reduce((product, size) => product * size, 1);
    return [name, { dtype: "F32", shape, data: Float32Array.from({ length }, () => uniformFloat64(random) - 0.5) }];
  }));
}

async function writeSafetensors(path: string, weights: Weights): Promise<void> {
  const entries = [...weights].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
  using writer = await SafetensorsWriter.create(path, entries);
  for (const [name, { data }] of weights) await writer.write(name, data);
  await writer.finish();
}

let folder: string;
let toClose: Checkpoint[];

beforeEach(async () => {
  folder = await Deno.makeTempDir();
  toClose = [];
});

afterEach(async () => {
  for (const checkpoint of toClose) checkpoint.close();
  await Deno.remove(folder, { recursive: true });
});

const writeJson = (name: string, value: unknown) => Deno.writeTextFile(join(folder, name), JSON.stringify(value));

async function open(): Promise<Checkpoint> {
  const checkpoint = await openCheckpoint(folder);
  toClose.push(checkpoint);
  return checkpoint;
}

async function openWith(weights: Weights, config: object = CONFIG): Promise<Checkpoint> {
  await writeJson("config.json", config);
  await writeSafetensors(join(folder, "model.safetensors"), weights);
  return open();
}

async function refuses(opening: Promise<unknown>, ...messages: RegExp[]): Promise<void> {
  await rejects(opening, (error) => {
    ok(error instanceof RangeError || error instanceof SyntaxError, String(error));
    for (const message of messages) ok(message.test(error.message), `${error} does not match ${message}`);
    return true;
  });
}

/** Splits the weights into two files and an index, as large checkpoints come. */
async function writeShards(weights: Weights, weightMap?: Record<string, string>): Promise<void> {
  const halves = [...weights].map((entry, i) => [`model-0000${i % 2 + 1}-of-00002.safetensors`, entry] as const);
  for (const shard of new Set(halves.map(([shard]) => shard))) {
    const own = halves.filter(([other]) => other === shard).map(([, entry]) => entry);
    await writeSafetensors(join(folder, shard), new Map(own));
  }
  await writeJson("config.json", CONFIG);
  await writeJson("model.safetensors.index.json", {
    weight_map: weightMap ?? Object.fromEntries(halves.map(([shard, [name]]) => [name, shard])),
  });
}

describe("openCheckpoint() of a folder", () => {
  it("gives the description, the tensors and their values", async () => {
    const weights = randomWeights();
    const checkpoint = await openWith(weights);
    equal(checkpoint.description.config.hiddenSize, 16);
    deepEqual([...checkpoint.tensors.keys()], [...weights.keys()]);
    deepEqual(checkpoint.tensors.get("model.layers.1.mlp.down_proj.weight"), {
      dtype: "F32",
      shape: [16, 24],
      bytes: 16 * 24 * 4,
    });
    const read = await Promise.all(
      [...weights.keys()].map(async (name) => [name, await checkpoint.read(name)] as const),
    );
    for (const [name, values] of read) deepEqual(values, weights.get(name)!.data, name);
  });

  it("reads float16 and bfloat16 as float32", async () => {
    const weights = randomWeights();
    const values = Float32Array.from({ length: 16 }, (_, i) => i - 7.5);
    weights.set("model.norm.weight", {
      dtype: "F16",
      shape: [16],
      data: new Uint16Array(Float16Array.from(values).buffer),
    });
    const bits = new Uint16Array(values.buffer.slice(0)).filter((_, i) => i % 2 === 1);
    weights.set("model.layers.0.input_layernorm.weight", { dtype: "BF16", shape: [16], data: bits });
    const checkpoint = await openWith(weights);
    deepEqual(await checkpoint.read("model.norm.weight"), values);
    deepEqual(await checkpoint.read("model.layers.0.input_layernorm.weight"), values);
  });

  it("reads shards as if they were one file", async () => {
    const weights = randomWeights();
    await writeShards(weights);
    const checkpoint = await open();
    equal(checkpoint.tensors.size, weights.size);
    for (const [name, { data }] of weights) deepEqual(await checkpoint.read(name), data, name);
  });

  it("names every shard and every tensor on which files and index disagree", async () => {
    const weights = randomWeights();
    const [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    const wrong = Object.fromEntries([...weights.keys()].map((name, i) => [name, i % 2 === 0 ? first : second]));
    wrong["model.embed_tokens.weight"] = second;
    wrong["model.extra"] = first;
    delete wrong["model.norm.weight"];
    await writeShards(weights, wrong);
    await refuses(
      open(),
      /puts "model.embed_tokens.weight" in model-00002-of-00002.safetensors, but it is in model-00001/,
      /puts "model.extra" in model-00001-of-00002.safetensors, but it is in no file/,
      /does not mention "model.norm.weight"/,
    );
    await writeShards(weights);
    await Deno.remove(join(folder, second));
    await Deno.truncate(join(folder, first), 3000);
    await refuses(open(), /there is no file model-00002-of-00002.safetensors/, /model-00001.*as safetensors/);
  });

  it("does not follow an index out of its folder", async () => {
    await writeShards(randomWeights(), { "model.norm.weight": "../model.safetensors" });
    await refuses(open(), /weight_map names \.\.\/model.safetensors; wanted files of this folder/);
  });

  it("names all tensors that are missing, misshapen, of a foreign type, or unasked for", async () => {
    const weights = randomWeights();
    weights.delete("model.norm.weight");
    weights.set("model.layers.0.mlp.up_proj.weight", {
      dtype: "F32",
      shape: [16, 24],
      data: new Float32Array(16 * 24),
    });
    weights.set("model.embed_tokens.weight", { dtype: "I32", shape: [32, 16], data: new Int32Array(32 * 16) });
    weights.set("model.layers.0.self_attn.q_proj.bias", { dtype: "F32", shape: [16], data: new Float32Array(16) });
    await refuses(
      openWith(weights),
      /"model.norm.weight" \[16\] is missing/,
      /"model.layers.0.mlp.up_proj.weight" is \[16, 24\]; wanted \[24, 16\]/,
      /"model.embed_tokens.weight" is I32; wanted one of F32, F16, BF16/,
      /"model.layers.0.self_attn.q_proj.bias" is there, but nothing in this model reads it/,
    );
  });

  it("overlooks buffers of old checkpoints, and a head beside a tied embedding", async () => {
    const weights = randomWeights();
    const extra = { dtype: "F32", shape: [2], data: new Float32Array(2) } as const;
    weights.set("model.layers.0.self_attn.rotary_emb.inv_freq", extra);
    weights.set("lm_head.weight", extra);
    const checkpoint = await openWith(weights);
    equal(checkpoint.tensors.has("lm_head.weight"), false);
    await rejects(checkpoint.read("lm_head.weight"), RangeError);
  });

  it("wants a head where the embedding is not tied", async () => {
    await refuses(
      openWith(randomWeights(), { ...CONFIG, tie_word_embeddings: false }),
      /"lm_head.weight" \[32, 16\] is missing/,
    );
  });

  it("refuses a truncated file", async () => {
    (await openWith(randomWeights())).close();
    const path = join(folder, "model.safetensors");
    await Deno.truncate(path, (await Deno.stat(path)).size - 64);
    await refuses(open(), /ends at byte \d+, but the file has only \d+/);
  });

  it("refuses another architecture before it looks for weights", async () => {
    await writeJson("config.json", { ...CONFIG, architectures: ["GPT2LMHeadModel"] });
    await refuses(open(), /GPT2LMHeadModel is not supported; supported are LlamaForCausalLM, Qwen2ForCausalLM/);
  });

  it("adds the end tokens of generation_config.json", async () => {
    await writeJson("generation_config.json", { eos_token_id: [7, 2] });
    const { description } = await openWith(randomWeights());
    deepEqual(description.config.eosTokenIds, [2, 7]);
  });

  it("brings the tokenizer's files, with a chat template from a file of its own first", async () => {
    equal((await openWith(randomWeights())).tokenizer, null);
    await writeJson("tokenizer.json", { model: {} });
    await writeJson("tokenizer_config.json", { eos_token: "</s>", chat_template: "old" });
    equal((await open()).tokenizer?.tokenizerConfig.chat_template, "old");
    await Deno.writeTextFile(join(folder, "chat_template.jinja"), "new");
    const { tokenizer } = await open();
    deepEqual(tokenizer, {
      tokenizerJson: { model: {} },
      tokenizerConfig: { eos_token: "</s>", chat_template: "new" },
    });
  });

  it("digests the files in the order of their names", async () => {
    await writeShards(randomWeights());
    const hash = createHash("sha256");
    for (const shard of [1, 2]) {
      hash.update(await Deno.readFile(join(folder, `model-0000${shard}-of-00002.safetensors`)));
    }
    equal(await (await open()).digest(), hash.digest("hex"));
  });

  it("reads no more once it is closed, and closes again without complaint", async () => {
    const checkpoint = await openWith(randomWeights());
    checkpoint.close();
    checkpoint.close();
    await rejects(checkpoint.read("model.norm.weight"));
  });

  it("says what is missing in a folder that is no checkpoint", async () => {
    await refuses(open(), /no config.json, and no .gguf file/);
    for (const name of ["a.gguf", "b.gguf"]) await Deno.writeTextFile(join(folder, name), "");
    await refuses(open(), /several .gguf files \(a.gguf, b.gguf\); name one of them/);
    await refuses(openCheckpoint(Deno.execPath()), /wanted a folder or a .gguf file/);
    await rejects(openCheckpoint(join(folder, "nowhere")), Deno.errors.NotFound);
  });
});

const models = new URL("../../shared/data/models/", import.meta.url).pathname;

if (existsSync(models)) {
  describe("openCheckpoint() of real checkpoints", () => {
    it("gives bfloat16 shards that differ from the float32 weights by rounding only", async () => {
      using exact = await openCheckpoint(join(models, "stories260K"));
      using rounded = await openCheckpoint(join(models, "stories260K-bf16"));
      deepEqual([...rounded.tensors.keys()], [...exact.tensors.keys()]);
      for (const name of exact.tensors.keys()) {
        const [wanted, found] = await Promise.all([exact.read(name), rounded.read(name)]);
        ok(found.every((value, i) => Math.abs(value - wanted[i]!) <= Math.abs(wanted[i]!) / 256), name);
      }
    });

    it("opens the Qwen2 checkpoint, which has no tokenizer", async () => {
      using checkpoint = await openCheckpoint(join(models, "tiny-random/qwen2"));
      equal(checkpoint.tokenizer, null);
      deepEqual(checkpoint.tensors.get("model.layers.1.self_attn.k_proj.bias")?.shape, [32]);
      equal((await checkpoint.read("lm_head.weight")).length, 128 * 64);
    });
  });
}
