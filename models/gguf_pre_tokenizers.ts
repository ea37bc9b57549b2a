/** How a byte-level tokenizer cuts a text into words before it merges bytes. */
export interface ByteLevelTraits {
  /** In the form of `tokenizer.json`; applied one after the other. */
  readonly preTokenizers: readonly unknown[];
  readonly normalizer: unknown;
  /** Whether a word that is a token itself is taken whole, even if merges would not lead there. */
  readonly ignoreMerges: boolean;
  /** Whether texts begin with the BOS token where the file does not say. */
  readonly addBos: boolean;
}

const split = (regex: string) => ({
  type: "Split",
  pattern: { Regex: regex },
  behavior: "Isolated",
  invert: false,
});

/** Maps bytes to characters; with GPT-2's own words where `words` is set. */
const bytes = (words: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: words,
});

/** Words as in Llama 3; Qwen2 differs in how many digits stay together. */
const llama3Words = (digits: string) =>
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + digits +
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const plain = { normalizer: null, ignoreMerges: false, addBos: false };

const gpt2: ByteLevelTraits = { ...plain, preTokenizers: [bytes(true)] };
const llama3: ByteLevelTraits = {
  ...plain,
  preTokenizers: [split(llama3Words("\\p{N}{1,3}")), bytes(false)],
  ignoreMerges: true,
  addBos: true,
};

/** By `tokenizer.ggml.pre`, which names the model that a way of cutting was first seen in. */
const PRE_TOKENIZERS: Readonly<Record<string, ByteLevelTraits>> = {
  // What ggml takes where a file names none.
  default: {
    ...plain,
    preTokenizers: [
      split("[\\p{P}\\$\\+<=>\\^~\\|]+"),
      split("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"),
      split("\\p{N}+"),
      split("[0-9][0-9][0-9]"),
      bytes(false),
    ],
  },
  "gpt-2": gpt2,
  smollm: { ...plain, preTokenizers: [split("\\p{N}"), bytes(true)] },
  "llama-bpe": llama3,
  llama3,
  "llama-v3": llama3,
  qwen2: {
    ...plain,
    preTokenizers: [split(llama3Words("\\p{N}")), bytes(false)],
    normalizer: { type: "NFC" },
  },
};

/**
 * Looks up how a byte-level tokenizer of a GGUF file cuts texts.
 *
 * @throws {RangeError} If the name is not known; to guess would give other tokens than the model was trained on.
 */
export function byteLevelPreTokenizers(name: string): ByteLevelTraits {
  if (!Object.hasOwn(PRE_TOKENIZERS, name)) {
    const supported = Object.keys(PRE_TOKENIZERS).join(", ");
    throw new RangeError(`The GGUF pre-tokenizer ${name} is not supported; supported are ${supported}`);
  }
  return PRE_TOKENIZERS[name]!;
}
