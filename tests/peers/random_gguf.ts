/** Random models in llama.cpp's format: GGUF version 3, every matrix in Q4_0. */

import { GGMLQuantizationType, GGUFValueType } from "@huggingface/gguf";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import type { ModelConfig } from "../../models/description.ts";
import { ropeFrequencies } from "../../models/rope.ts";

/** Q4_0: a float16 scale and 32 codes of 4 bits, which stand for −8 to 7. */
const [BLOCK, BLOCK_BYTES] = [32, 18];

/** Where the data and each tensor in it begin. */
const ALIGNMENT = 32;

interface Tensor {
  /** Outermost axis first; the file has them reversed. */
  readonly shape: readonly number[];
  /** The values of a tensor that is not drawn at random, as float32. */
  readonly values?: Float32Array<ArrayBuffer>;
}

/**
 * Writes a model of random weights with a tied head: blocks are drawn, not quantized, so that it takes seconds.
 *
 * Scales are as in our random artefacts: activations neither vanish nor explode over the layers.
 *
 * @param config A Llama's, whose matrices have whole blocks of 32 columns.
 */
export async function writeRandomGguf(path: string, config: ModelConfig, seed: number): Promise<void> {
  const tensors = llamaTensors(config);
  const random = xoroshiro128plus(seed);
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  const write = async (bytes: Uint8Array) => {
    for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
  };
  await write(header(metadataOf(config), tensors));
  for (const { shape, values } of tensors.values()) {
    const bytes = values === undefined ? randomBlocks(random, shape) : new Uint8Array(values.buffer);
    await write(bytes);
    await write(new Uint8Array(aligned(bytes.length) - bytes.length));
  }
}

/** Under llama.cpp's names. */
function llamaTensors(config: ModelConfig): Map<string, Tensor> {
  const { hiddenSize: D, intermediateSize: F, numHiddenLayers, headDim, vocabSize: V } = config;
  const [query, keyValue] = [config.numAttentionHeads * headDim, config.numKeyValueHeads * headDim];
  const norm = (): Tensor => ({ shape: [D], values: new Float32Array(D).fill(1) });
  const plain = ropeFrequencies({ ...config.rope, scaling: null }, headDim);
  const divisors = ropeFrequencies(config.rope, headDim).map((frequency, pair) => plain[pair]! / frequency);
  const tensors = new Map<string, Tensor>([
    ["token_embd.weight", { shape: [V, D] }],
    ["output_norm.weight", norm()],
    ["rope_freqs.weight", { shape: [headDim / 2], values: new Float32Array(divisors) }],
  ]);
  for (let layer = 0; layer < numHiddenLayers; layer++) {
    const add = (name: string, tensor: Tensor) => tensors.set(`blk.${layer}.${name}.weight`, tensor);
    add("attn_norm", norm());
    add("attn_q", { shape: [query, D] });
    add("attn_k", { shape: [keyValue, D] });
    add("attn_v", { shape: [keyValue, D] });
    add("attn_output", { shape: [D, query] });
    add("ffn_norm", norm());
    add("ffn_gate", { shape: [F, D] });
    add("ffn_up", { shape: [F, D] });
    add("ffn_down", { shape: [D, F] });
  }
  return tensors;
}

/** Counts are written as unsigned integers, `{ float }` as float32. */
type Value = string | number | { readonly float: number };

function metadataOf(config: ModelConfig): Map<string, Value> {
  return new Map<string, Value>([
    ["general.architecture", "llama"],
    ["general.name", "random"],
    ["general.alignment", ALIGNMENT],
    ["llama.vocab_size", config.vocabSize],
    ["llama.context_length", config.maxPositionEmbeddings],
    ["llama.embedding_length", config.hiddenSize],
    ["llama.block_count", config.numHiddenLayers],
    ["llama.feed_forward_length", config.intermediateSize],
    ["llama.attention.head_count", config.numAttentionHeads],
    ["llama.attention.head_count_kv", config.numKeyValueHeads],
    ["llama.attention.key_length", config.headDim],
    ["llama.attention.value_length", config.headDim],
    ["llama.attention.layer_norm_rms_epsilon", { float: config.rmsNormEps }],
    ["llama.rope.dimension_count", config.headDim],
    ["llama.rope.freq_base", { float: config.rope.theta }],
    ["tokenizer.ggml.model", "no_vocab"],
  ]);
}

/** All before the first tensor's bytes, filled up to the alignment. */
function header(metadata: ReadonlyMap<string, Value>, tensors: ReadonlyMap<string, Tensor>): Uint8Array {
  const parts: Uint8Array[] = [];
  const u32 = (value: number) => parts.push(new Uint8Array(Uint32Array.of(value).buffer));
  const u64 = (value: number) => parts.push(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  const text = (value: string) => {
    const bytes = new TextEncoder().encode(value);
    u64(bytes.length);
    parts.push(bytes);
  };
  parts.push(new TextEncoder().encode("GGUF"));
  u32(3);
  u64(tensors.size);
  u64(metadata.size);
  for (const [key, value] of metadata) {
    text(key);
    if (typeof value === "string") {
      u32(GGUFValueType.STRING);
      text(value);
    } else if (typeof value === "number") {
      u32(GGUFValueType.UINT32);
      u32(value);
    } else {
      u32(GGUFValueType.FLOAT32);
      parts.push(new Uint8Array(Float32Array.of(value.float).buffer));
    }
  }
  let offset = 0;
  for (const [name, { shape, values }] of tensors) {
    text(name);
    u32(shape.length);
    shape.toReversed().forEach(u64);
    u32(values === undefined ? GGMLQuantizationType.Q4_0 : GGMLQuantizationType.F32);
    u64(offset);
    offset += aligned(values?.byteLength ?? blockBytes(shape));
  }
  const length = parts.reduce((sum, { length }) => sum + length, 0);
  const bytes = new Uint8Array(aligned(length));
  let end = 0;
  for (const part of parts) {
    bytes.set(part, end);
    end += part.length;
  }
  return bytes;
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** @throws {RangeError} If rows are not whole blocks. */
function blockBytes(shape: readonly number[]): number {
  const [rows, columns] = shape as [number, number];
  if (columns % BLOCK !== 0) {
    throw new RangeError(`Cannot write a matrix of ${columns} columns as Q4_0: they are not whole blocks of ${BLOCK}`);
  }
  return rows * columns / BLOCK * BLOCK_BYTES;
}

function randomBlocks(random: ReturnType<typeof xoroshiro128plus>, shape: readonly number[]): Uint8Array {
  const halves = new Uint16Array(blockBytes(shape) / 2);
  const words = new Uint32Array(halves.buffer, 0, halves.length >> 1);
  for (let i = 0; i < words.length; i++) words[i] = random.next();
  if (halves.length % 2 === 1) halves[halves.length - 1] = random.next();
  // Codes are uniform in −8 to 7, about 4.6 in the root mean square.
  const scale = 0.7 / (4.6 * Math.sqrt(shape[1]!));
  const scales = new Float16Array(halves.buffer);
  for (let i = 0; i < scales.length; i += BLOCK_BYTES / 2) scales[i] = scale * (0.75 + uniformFloat64(random) / 2);
  return new Uint8Array(halves.buffer);
}
