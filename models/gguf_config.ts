import type { GgufFile } from "./gguf_file.ts";
import type { MetadataValue } from "@huggingface/gguf";
import { z } from "zod";

/** The architectures that we read, and Hugging Face's names for them. */
const ARCHITECTURES: Readonly<Record<string, string>> = { llama: "LlamaForCausalLM", qwen2: "Qwen2ForCausalLM" };

const Whole = z.union([z.number(), z.bigint()]).transform(Number).pipe(z.int().nonnegative());

/** A count for the whole model; some files give one for each layer, which is fine while all are the same. */
const Uniform = z.union([Whole, z.array(Whole).nonempty()], { error: "wanted a whole number" }).transform(
  (value, ctx) => {
    const [first, ...rest] = [value].flat();
    if (rest.every((other) => other === first)) return first!;
    ctx.addIssue({ code: "custom", message: "the layers differ; only models with equal layers are supported" });
    return z.NEVER;
  },
);

/** float32 in the file, where 1e-5 is 0.00000999999974…; the shortest decimal that is the same float32 is meant. */
const Float = z.number().transform((value) => {
  const decimal = Number(value.toPrecision(7));
  return Math.fround(decimal) === value ? decimal : value;
});

const NotSupported = z.union([z.literal(0), z.literal(0n)], { error: "only 0 is supported" }).optional();

/** The metadata of a Llama-like model, without the architecture's name in front. */
const Hyperparameters = z.looseObject({
  block_count: Whole,
  context_length: Whole,
  embedding_length: Whole,
  feed_forward_length: Uniform,
  expert_count: NotSupported,
  "attention.head_count": Uniform,
  "attention.head_count_kv": Uniform.optional(),
  "attention.key_length": Whole.optional(),
  "attention.value_length": Whole.optional(),
  "attention.layer_norm_rms_epsilon": Float,
  "attention.sliding_window": NotSupported,
  "rope.dimension_count": Whole.optional(),
  "rope.freq_base": Float.optional(),
  "rope.scaling.type": z.string().optional(),
  "rope.scaling.factor": Float.optional(),
});

/**
 * Translates a GGUF file's metadata into a configuration under Hugging Face's names.
 *
 * @throws {RangeError} If the architecture is another than those that we read, or a field is missing or holds what we
 * cannot run; the message names every such field.
 */
export function ggufConfig({ file, metadata, tensors }: GgufFile): Record<string, unknown> {
  const architecture = metadata.get("general.architecture");
  if (typeof architecture !== "string" || !Object.hasOwn(ARCHITECTURES, architecture)) {
    const supported = Object.keys(ARCHITECTURES).join(", ");
    throw new RangeError(
      `The GGUF architecture ${architecture} of ${file.path} is not supported; supported are ${supported}`,
    );
  }
  if (Number(metadata.get("split.count") ?? 1) > 1) {
    throw new RangeError(`${file.path} is one of ${metadata.get("split.count")} parts; merge them into one file first`);
  }
  const prefix = `${architecture}.`;
  const own = [...metadata].filter(([key]) => key.startsWith(prefix)).map((
    [key, value],
  ) => [key.slice(prefix.length), value]);
  const parsed = Hyperparameters.safeParse(Object.fromEntries(own));
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `${prefix}${path.join(".")}: ${message}`);
    throw new RangeError(`Cannot use the metadata of ${file.path}:\n  ${problems.join("\n  ")}`);
  }
  const given = parsed.data;

  const heads = given["attention.head_count"];
  const headDim = given["attention.key_length"] ?? given.embedding_length / heads;
  for (const field of ["attention.value_length", "rope.dimension_count"] as const) {
    if ((given[field] ?? headDim) !== headDim) {
      throw new RangeError(
        `Cannot use ${file.path}: ${prefix}${field} is ${given[field]}, and heads have ${headDim} components`,
      );
    }
  }
  const scaling = given["rope.scaling.type"] ?? "none";
  const embedding = tensors.get("token_embd.weight");
  return {
    architectures: [ARCHITECTURES[architecture]],
    model_type: architecture,
    hidden_size: given.embedding_length,
    intermediate_size: given.feed_forward_length,
    num_hidden_layers: given.block_count,
    num_attention_heads: heads,
    num_key_value_heads: given["attention.head_count_kv"] ?? heads,
    head_dim: headDim,
    // The tensor decides: not every file has the metadata entry, and paddings are in the tensor only.
    vocab_size: embedding?.shape[0],
    max_position_embeddings: given.context_length,
    rms_norm_eps: given["attention.layer_norm_rms_epsilon"],
    rope_theta: given["rope.freq_base"] ?? 10_000,
    rope_scaling: scaling === "none" ? null : { rope_type: scaling, factor: given["rope.scaling.factor"] },
    tie_word_embeddings: !tensors.has("output.weight"),
    ...(architecture === "llama" ? { attention_bias: tensors.has("blk.0.attn_q.bias") } : {}),
    bos_token_id: tokenId(metadata, "bos"),
    eos_token_id: ["eos", "eot", "eom"].map((name) => tokenId(metadata, name)).filter((id) => id !== null),
  };
}

function tokenId(metadata: ReadonlyMap<string, MetadataValue>, name: string): number | null {
  const id = metadata.get(`tokenizer.ggml.${name}_token_id`);
  return id === undefined ? null : Number(id);
}
