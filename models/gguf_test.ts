import { afterEach, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, rejects } from "node:assert/strict";
import { GGMLQuantizationType, GGUFValueType } from "@huggingface/gguf";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import { GGUF_QUANTIZATIONS } from "./gguf_quantization.ts";
import { Tokenizer } from "./tokenizer.ts";

/** A metadata value: its type says how it is written. */
type Value = number | bigint | string | boolean | string[] | Int32Array | Float32Array | { f32: number };

interface Tensor {
  /** In Hugging Face's order; the file has it reversed. */
  shape: number[];
  type?: GGMLQuantizationType;
  data: Uint8Array<ArrayBuffer>;
  /** From the start of the data, in place of the next free byte; for files that lie. */
  offset?: number;
}

/** Writes GGUF, version 3. */
function ggufBytes(metadata: Record<string, Value>, tensors: Record<string, Tensor>): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  const raw = (view: ArrayBufferView<ArrayBuffer>) => {
    for (const byte of new Uint8Array(view.buffer, view.byteOffset, view.byteLength)) bytes.push(byte);
  };
  const u32 = (value: number) => raw(new Uint32Array([value]));
  const u64 = (value: number | bigint) => raw(new BigUint64Array([BigInt(value)]));
  const text = (value: string) => {
    const encoded = new TextEncoder().encode(value);
    u64(encoded.length);
    raw(encoded);
  };
  u32(0x46554747);
  u32(3);
  u64(Object.keys(tensors).length);
  u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    text(key);
    if (typeof value === "string") {
      u32(GGUFValueType.STRING);
      text(value);
    } else if (typeof value === "boolean") {
      u32(GGUFValueType.BOOL);
      bytes.push(Number(value));
    } else if (typeof value === "number") {
      u32(GGUFValueType.UINT32);
      u32(value);
    } else if (typeof value === "bigint") {
      u32(GGUFValueType.UINT64);
      u64(value);
    } else if (Array.isArray(value)) {
      u32(GGUFValueType.ARRAY);
      u32(GGUFValueType.STRING);
      u64(value.length);
      value.forEach(text);
    } else if (ArrayBuffer.isView(value)) {
      u32(GGUFValueType.ARRAY);
      u32(value instanceof Int32Array ? GGUFValueType.INT32 : GGUFValueType.FLOAT32);
      u64(value.length);
      raw(value as Int32Array<ArrayBuffer>);
    } else {
      u32(GGUFValueType.FLOAT32);
      raw(new Float32Array([value.f32]));
    }
  }
  let end = 0;
  const placed = Object.entries(tensors).map(([name, tensor]) => {
    const offset = tensor.offset ?? end;
    end = Math.ceil((offset + tensor.data.length) / 32) * 32;
    return { name, ...tensor, offset };
  });
  for (const { name, shape, type = GGMLQuantizationType.F32, offset } of placed) {
    text(name);
    u32(shape.length);
    shape.toReversed().forEach(u64);
    u32(type);
    u64(offset);
  }
  const start = Math.ceil(bytes.length / 32) * 32;
  const size = placed.reduce((most, { offset, data }) => Math.max(most, start + offset + data.length), start);
  const file = new Uint8Array(size);
  file.set(bytes);
  for (const { offset, data } of placed) file.set(data, start + offset);
  return file;
}

// D 16, F 256, 4 query heads of 8 components, 2 key/value heads, 8 tokens, 1 layer.
const HEADS = { query: 4, keyValue: 2, dim: 8 };
const SHAPES: Record<string, number[]> = {
  "token_embd.weight": [8, 16],
  "blk.0.attn_norm.weight": [16],
  "blk.0.attn_q.weight": [32, 16],
  "blk.0.attn_k.weight": [16, 16],
  "blk.0.attn_v.weight": [16, 16],
  "blk.0.attn_output.weight": [16, 32],
  "blk.0.ffn_norm.weight": [16],
  "blk.0.ffn_gate.weight": [256, 16],
  "blk.0.ffn_up.weight": [256, 16],
  "blk.0.ffn_down.weight": [16, 256],
  "output_norm.weight": [16],
};

/** A tensor whose element `i` is `i`. */
function counting(shape: number[]): Tensor {
  const length = shape.reduce((product, size) => product * size, 1);
  return { shape, data: new Uint8Array(Float32Array.from({ length }, (_, i) => i).buffer) };
}

function tinyTensors(): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(SHAPES).map(([name, shape]) => [name, counting(shape)]));
}

function tinyMetadata(architecture = "llama"): Record<string, Value> {
  const own: Record<string, Value> = {
    block_count: 1,
    context_length: 64,
    embedding_length: 16,
    feed_forward_length: 256,
    "attention.head_count": HEADS.query,
    "attention.head_count_kv": HEADS.keyValue,
    "attention.key_length": HEADS.dim,
    "attention.value_length": HEADS.dim,
    "attention.layer_norm_rms_epsilon": { f32: 1e-5 },
    "rope.freq_base": { f32: 500_000 },
  };
  return {
    "general.architecture": architecture,
    ...Object.fromEntries(Object.entries(own).map(([key, value]) => [`${architecture}.${key}`, value])),
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 5,
  };
}

const without = (tensors: Record<string, Tensor>, name: string) =>
  Object.fromEntries(Object.entries(tensors).filter(([key]) => key !== name));

const opened: { checkpoint?: Checkpoint; path: string }[] = [];

async function open(bytes: Uint8Array): Promise<Checkpoint> {
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  opened.push({ path });
  await Deno.writeFile(path, bytes);
  const checkpoint = await openCheckpoint(path);
  opened.push({ checkpoint, path });
  return checkpoint;
}

afterEach(async () => {
  for (const { checkpoint } of opened) checkpoint?.close();
  for (const path of new Set(opened.map(({ path }) => path))) await Deno.remove(path);
  opened.length = 0;
});

async function refuses(bytes: Uint8Array, ...messages: RegExp[]): Promise<void> {
  await rejects(open(bytes), (error) => {
    equal(error instanceof RangeError || error instanceof SyntaxError, true, String(error));
    for (const message of messages) equal(message.test(String(error)), true, `${error} does not match ${message}`);
    return true;
  });
}

/**
 * The order of rows in which converters write the query and key projections of a Llama: for each head, Hugging Face's
 * rows seen as `[2, headDim / 2]` and transposed.
 */
function asConvertersPermute(tensor: Tensor, heads: number): Tensor {
  const rowLength = tensor.shape[1] ?? 1;
  const rows = new Float32Array(tensor.data.buffer);
  const headDim = tensor.shape[0]! / heads;
  const permuted: number[] = [];
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < headDim / 2; i++) {
      for (let j = 0; j < 2; j++) {
        const row = head * headDim + j * headDim / 2 + i;
        permuted.push(...rows.subarray(row * rowLength, (row + 1) * rowLength));
      }
    }
  }
  return { ...tensor, data: new Uint8Array(new Float32Array(permuted).buffer) };
}

describe("openCheckpoint() of a GGUF file", () => {
  it("describes the model as a Hugging Face configuration would", async () => {
    const { description, tokenizer, tensors } = await open(ggufBytes(tinyMetadata(), tinyTensors()));
    deepEqual(description.config, {
      family: "llama",
      hiddenSize: 16,
      intermediateSize: 256,
      numHiddenLayers: 1,
      numAttentionHeads: 4,
      numKeyValueHeads: 2,
      headDim: 8,
      vocabSize: 8,
      rmsNormEps: 1e-5,
      maxPositionEmbeddings: 64,
      rope: { theta: 500_000, scaling: null },
      tieWordEmbeddings: true,
      bosTokenId: null,
      eosTokenIds: [2, 5],
    });
    equal(tokenizer, null);
    deepEqual(tensors.get("model.layers.0.mlp.down_proj.weight"), { dtype: "F32", shape: [16, 256], bytes: 16384 });
  });

  it("takes an output tensor as a head of its own", async () => {
    const tensors = { ...tinyTensors(), "output.weight": counting([8, 16]) };
    const { description } = await open(ggufBytes(tinyMetadata(), tensors));
    equal(description.head, "lm_head.weight");
  });

  for (const [type, { name, blockSize, blockBytes, dequantize }] of GGUF_QUANTIZATIONS) {
    it(`reads a tensor of type ${name}`, async () => {
      const data = new Uint8Array(16 * 256 / blockSize * blockBytes).map((_, i) => i * 7 & 63);
      const tensors = { ...tinyTensors(), "blk.0.ffn_down.weight": { shape: [16, 256], type, data } };
      const checkpoint = await open(ggufBytes(tinyMetadata(), tensors));
      const expected = new Float32Array(16 * 256);
      dequantize(data, expected);
      deepEqual(await checkpoint.read("model.layers.0.mlp.down_proj.weight"), expected);
    });
  }

  it("puts the rows of a Llama's queries and keys back into Hugging Face's order", async () => {
    const tensors = tinyTensors();
    for (const [part, rows] of [["q", 32], ["k", 16], ["v", 16], ["output", 16]] as const) {
      tensors[`blk.0.attn_${part}.bias`] = counting([rows]);
    }
    const plain = { ...tensors };
    for (const [part, heads] of [["q", HEADS.query], ["k", HEADS.keyValue]] as const) {
      for (const kind of ["weight", "bias"]) {
        tensors[`blk.0.attn_${part}.${kind}`] = asConvertersPermute(tensors[`blk.0.attn_${part}.${kind}`]!, heads);
      }
    }
    const checkpoint = await open(ggufBytes(tinyMetadata(), tensors));
    for (const part of ["q", "k", "v"]) {
      for (const kind of ["weight", "bias"]) {
        const read = await checkpoint.read(`model.layers.0.self_attn.${part}_proj.${kind}`);
        deepEqual(read, new Float32Array(plain[`blk.0.attn_${part}.${kind}`]!.data.buffer), `${part} ${kind}`);
      }
    }
  });

  it("leaves the rows of a Qwen2 as they are", async () => {
    const tensors = tinyTensors();
    for (const [part, rows] of [["q", 32], ["k", 16], ["v", 16]] as const) {
      tensors[`blk.0.attn_${part}.bias`] = counting([rows]);
    }
    const checkpoint = await open(ggufBytes(tinyMetadata("qwen2"), tensors));
    equal(checkpoint.description.config.family, "qwen2");
    deepEqual(
      await checkpoint.read("model.layers.0.self_attn.q_proj.weight"),
      new Float32Array(tensors["blk.0.attn_q.weight"]!.data.buffer),
    );
  });

  it("recovers Llama 3's RoPE scaling from the divisors, and refuses divisors of another kind", async () => {
    // Wavelengths of pairs 0 to 3 with theta 500000: 6.3, 167, 4443, 118143; 8192 / 4 and 8192 bound the middle band.
    const kept = (8192 / (2 * Math.PI * 500_000 ** 0.5) - 1) / 3;
    const divisors = [1, 1, 1 / ((1 - kept) / 8 + kept), 8];
    const withDivisors = (values: number[]) =>
      ggufBytes(tinyMetadata(), {
        ...tinyTensors(),
        "rope_freqs.weight": { shape: [4], data: new Uint8Array(new Float32Array(values).buffer) },
      });
    const { description } = await open(withDivisors(divisors));
    deepEqual(description.config.rope.scaling, {
      kind: "llama3",
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 8192,
    });
    equal((await open(withDivisors([1, 1, 1, 1]))).description.config.rope.scaling, null);
    await refuses(withDivisors([1, 2, 4, 8]), /rope_freqs.weight: divisor 1 is 2, and Llama 3's bands .* give 1/);
  });

  it("reads linear RoPE scaling and refuses other kinds", async () => {
    const scaled = (type: string) =>
      ggufBytes(
        { ...tinyMetadata(), "llama.rope.scaling.type": type, "llama.rope.scaling.factor": { f32: 4 } },
        tinyTensors(),
      );
    deepEqual((await open(scaled("linear"))).description.config.rope.scaling, { kind: "linear", factor: 4 });
    await refuses(scaled("yarn"), /rope_scaling.rope_type: .*yarn/);
  });

  it("reads strings whole that end beyond what the parser loads at once, and keeps byte order marks", async () => {
    // The parser loads up to byte 2,000,000; the last string is to begin before and end after that.
    const metadata = { ...tinyMetadata(), "tokenizer.ggml.model": "llama" };
    const withTokens = (fillers: number, last: string) => ({
      ...metadata,
      "tokenizer.ggml.scores": new Float32Array(fillers + 2),
      "tokenizer.ggml.tokens": [
        "\ufeffusing",
        ...Array.from({ length: fillers }, (_, i) => String(i).padStart(100, "x")),
        last,
      ],
    });
    const bytesEach = 8 + 100 + 4; // with its length and its score
    const fillers = Math.floor((2_000_000 - ggufBytes(withTokens(0, ""), {}).length) / bytesEach) - 1;
    const last = "y".repeat(2_000_000 - ggufBytes(withTokens(fillers, ""), {}).length + 50);
    const file = ggufBytes(withTokens(fillers, last), tinyTensors());
    const { tokenizer } = await open(file);
    deepEqual(
      Object.keys((tokenizer?.tokenizerJson.model as { vocab: object }).vocab),
      withTokens(fillers, last)["tokenizer.ggml.tokens"],
    );
  });

  it("refuses a file that was cut anywhere", async () => {
    const file = ggufBytes(tinyMetadata(), tinyTensors());
    await refuses(file.slice(0, 20), /has 20 bytes/);
    for (const length of [30, 100, 400, 900]) {
      await refuses(file.slice(0, length), new RegExp(`Cannot read .* as GGUF`));
    }
    await refuses(file.slice(0, -1), /"output_norm.weight" ends at byte \d+, but the file has only/);
  });

  it("refuses a file that is no GGUF, or whose header is damaged", async () => {
    const file = ggufBytes(tinyMetadata(), tinyTensors());
    const flipped = (at: number, mask: number) => {
      const copy = file.slice();
      copy[at]! ^= mask;
      return copy;
    };
    await refuses(flipped(0, 1), /as GGUF: .*magic/);
    await refuses(flipped(4, 8), /as GGUF: .*version/);
    await refuses(flipped(31, 1), /as GGUF/); // the upper byte of the first key's length
    await refuses(flipped(24, 1), /as GGUF/); // its lowest
  });

  it("refuses offsets that lie", async () => {
    const lying = (offset: number) => {
      const tensors = tinyTensors();
      tensors["blk.0.attn_v.weight"]!.offset = offset;
      return ggufBytes(tinyMetadata(), tensors);
    };
    await refuses(lying(8), /"blk.0.attn_v.weight" starts at 8, which is not aligned to 32/);
    await refuses(lying(0), /overlaps "token_embd.weight" by 512 bytes|overlaps "blk.0.attn_v.weight"/);
    const beyond = ggufBytes(tinyMetadata(), tinyTensors());
    const at = new TextDecoder("latin1").decode(beyond).indexOf("output_norm.weight") + 18 + 4 + 8 + 4;
    new DataView(beyond.buffer).setBigUint64(at, 2n ** 40n, true);
    await refuses(beyond, /"output_norm.weight" ends at byte 1099511\d+, but the file has only/);
  });

  it("names tensors of types that it does not read, and lists those that it does", async () => {
    const data = new Uint8Array(16 * 84);
    const tensors = {
      ...tinyTensors(),
      "blk.0.ffn_down.weight": { shape: [16, 256], type: GGMLQuantizationType.Q2_K, data },
    };
    await refuses(
      ggufBytes(tinyMetadata(), tensors),
      /"blk.0.ffn_down.weight" is Q2_K/,
      /supported types are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q6_K/,
    );
  });

  it("refuses rows that are not whole blocks", async () => {
    const data = new Uint8Array(34 * 8);
    const tensors = {
      ...tinyTensors(),
      "token_embd.weight": { shape: [8, 16], type: GGMLQuantizationType.Q8_0, data },
    };
    await refuses(ggufBytes(tinyMetadata(), tensors), /"token_embd.weight" has rows of 16, and Q8_0 has blocks of 32/);
  });

  it("names all tensors that are missing, misshapen or unasked for, under Hugging Face's names", async () => {
    const tensors = {
      ...without(tinyTensors(), "blk.0.ffn_up.weight"),
      "blk.0.attn_v.weight": counting([16, 8]),
      "blk.0.ffn_gate_exps.weight": counting([4]),
    };
    await refuses(
      ggufBytes(tinyMetadata(), tensors),
      /"model.layers.0.mlp.up_proj.weight" \[256, 16\] is missing/,
      /"model.layers.0.self_attn.v_proj.weight" is \[16, 8\]; wanted \[16, 16\]/,
      /"blk.0.ffn_gate_exps.weight" is there, but nothing/,
    );
  });

  it("refuses metadata that it cannot run", async () => {
    await refuses(ggufBytes(tinyMetadata("mamba"), tinyTensors()), /architecture mamba .*supported are llama, qwen2/);
    const { "llama.block_count": _, ...incomplete } = tinyMetadata();
    await refuses(ggufBytes(incomplete, tinyTensors()), /llama.block_count:/);
    const experts = { ...tinyMetadata(), "llama.expert_count": 8 };
    await refuses(ggufBytes(experts, tinyTensors()), /llama.expert_count: only 0 is supported/);
    const uneven = { ...tinyMetadata(), "llama.feed_forward_length": new Int32Array([256, 128]) };
    await refuses(ggufBytes(uneven, tinyTensors()), /llama.feed_forward_length: the layers differ/);
    const part = { ...tinyMetadata(), "split.count": 2 };
    await refuses(ggufBytes(part, tinyTensors()), /is one of 2 parts/);
  });
});

describe("the tokenizer of a GGUF file", () => {
  const CONTROL = 3;
  const tokenizerOf = async (metadata: Record<string, Value>) => {
    const { tokenizer } = await open(ggufBytes({ ...tinyMetadata(), ...metadata }, tinyTensors()));
    return new Tokenizer(tokenizer!);
  };

  /** A byte-level vocabulary with `<|end|>`, some characters, and digits that merge. */
  const byteLevel = (pre: string) => ({
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": pre,
    "tokenizer.ggml.tokens": ["<|end|>", "a", "b", "Ġ", "1", "2", "Ġa", "ab", "12"],
    "tokenizer.ggml.token_type": Int32Array.of(CONTROL, 1, 1, 1, 1, 1, 1, 1, 1),
    "tokenizer.ggml.merges": ["Ġ a", "a b", "1 2"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.chat_template": "{{ bos_token }}",
  });

  it("merges bytes within the words of its pre-tokenizer", async () => {
    const smollm = await tokenizerOf(byteLevel("smollm"));
    const llama3 = await tokenizerOf(byteLevel("llama-bpe"));
    const plain = { addSpecialTokens: false };
    deepEqual(smollm.encode("ab a12<|end|>", plain), [7, 6, 4, 5, 0]); // digits stay apart
    deepEqual(llama3.encode("ab a12<|end|>", plain), [7, 6, 8, 0]); // up to three stay together
    equal(smollm.decode([7, 6, 4, 5, 0]), "ab a12");
  });

  it("begins with BOS where the file, or else its pre-tokenizer, says so", async () => {
    const special = { addSpecialTokens: true };
    deepEqual((await tokenizerOf(byteLevel("smollm"))).encode("a", special), [1]);
    deepEqual((await tokenizerOf(byteLevel("llama-bpe"))).encode("a", special), [0, 1]);
    const told = { ...byteLevel("smollm"), "tokenizer.ggml.add_bos_token": true };
    deepEqual((await tokenizerOf(told)).encode("a", special), [0, 1]);
  });

  it("brings the chat template along", async () => {
    const { tokenizer } = await open(ggufBytes({ ...tinyMetadata(), ...byteLevel("qwen2") }, tinyTensors()));
    equal(tokenizer?.tokenizerConfig.chat_template, "{{ bos_token }}");
    equal(tokenizer?.tokenizerConfig.bos_token, "<|end|>");
  });

  it("merges SentencePiece tokens by score, and falls back to bytes", async () => {
    const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    const tokens = ["<unk>", "<s>", "</s>", ...bytes, "▁", "a", "b", "c", "ab", "bc", "▁a"];
    const first = 3 + 256;
    const scores = new Float32Array(tokens.length);
    scores.set([-9, -9, -9, -9, -3, -1, -2], first); // bc before ▁a before ab
    const types = new Int32Array(tokens.length).fill(1);
    types.set([2, CONTROL, CONTROL]);
    types.fill(6, 3, first);
    const tokenizer = await tokenizerOf({
      "tokenizer.ggml.model": "llama",
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.scores": scores,
      "tokenizer.ggml.token_type": types,
      "tokenizer.ggml.bos_token_id": 1,
      "tokenizer.ggml.unknown_token_id": 0,
    });
    const ids = tokenizer.encode("abc é</s>", { addSpecialTokens: true });
    deepEqual(ids.map((id) => tokens[id]), ["<s>", "▁a", "bc", "▁", "<0xC3>", "<0xA9>", "</s>"]);
    equal(tokenizer.decode(ids), "abc é");
  });

  it("is refused where it is of a kind that is not supported", async () => {
    await rejects(
      tokenizerOf({ ...byteLevel("smollm"), "tokenizer.ggml.model": "rwkv" }),
      /rwkv .*supported are gpt2, llama/,
    );
    await rejects(
      tokenizerOf(byteLevel("tekken")),
      /pre-tokenizer tekken is not supported; supported are default, gpt-2/,
    );
    const short = { ...byteLevel("smollm"), "tokenizer.ggml.token_type": new Int32Array(3) };
    await rejects(tokenizerOf(short), /token_type has 3 entries for 9 tokens/);
  });
});
