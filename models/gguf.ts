import { ggufConfig } from "./gguf_config.ts";
import { openGgufFile, readGgufTensor } from "./gguf_file.ts";
import { ropeScalingFromDivisors } from "./gguf_rope.ts";
import { huggingFaceName, unpermuteRotary } from "./gguf_tensors.ts";
import { ggufTokenizer } from "./gguf_tokenizer.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";
import type { WeightSource } from "./weight_source.ts";

/** A GGUF file in the terms of a Hugging Face folder. */
export interface GgufCheckpoint {
  readonly rawConfig: Record<string, unknown>;
  readonly tokenizer: TokenizerFiles | null;
  readonly weights: WeightSource;
}

/** Frequency divisors of Llama 3's RoPE scaling, which Hugging Face keeps as numbers in the configuration. */
const ROPE_DIVISORS = "rope_freqs.weight";

/**
 * Opens a GGUF file of the architectures llama and qwen2, and translates its metadata, names and row order into what a
 * Hugging Face checkpoint of the same model has.
 *
 * @throws {SyntaxError} If the file is malformed.
 * @throws {RangeError} If it holds what we cannot run or read: the architecture, a type of tensor, a kind of tokenizer,
 * a RoPE scaling.
 */
export async function openGguf(path: string): Promise<GgufCheckpoint> {
  const gguf = await openGgufFile(path);
  try {
    const rawConfig = ggufConfig(gguf);
    const divisors = gguf.tensors.get(ROPE_DIVISORS);
    if (divisors !== undefined) {
      const scaling = ropeScalingFromDivisors(await readGgufTensor(gguf, divisors), Number(rawConfig.rope_theta));
      rawConfig.rope_scaling ??= scaling;
    }
    const tokenizer = ggufTokenizer(gguf.metadata);

    const stored = new Map(
      [...gguf.tensors].filter(([name]) => name !== ROPE_DIVISORS)
        .map(([name, tensor]) => [huggingFaceName(name), tensor]),
    );
    const permuted = rawConfig.model_type === "llama";
    const headDim = Number(rawConfig.head_dim);
    const weights: WeightSource = {
      files: [path],
      tensors: new Map([...stored].map(([name, { quantization, shape, bytes }]) => [
        name,
        { dtype: quantization.name, shape, bytes },
      ])),
      refuses: () => null,
      async read(name) {
        const tensor = stored.get(name)!;
        const values = await readGgufTensor(gguf, tensor);
        if (permuted && /\.self_attn\.[qk]_proj\./.test(name)) {
          unpermuteRotary(values, { heads: tensor.shape[0]! / headDim, headDim });
        }
        return values;
      },
      [Symbol.dispose]: () => gguf.file.close(),
    };
    return { rawConfig, tokenizer, weights };
  } catch (error) {
    gguf.file.close();
    throw error;
  }
}
