import type { MetadataValue } from "@huggingface/gguf";
import { byteLevelPreTokenizers } from "./gguf_pre_tokenizers.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";
import { z } from "zod";

/** `tokenizer.ggml.token_type`: what a token is for, as far as it matters here. */
const TOKEN_TYPE = { unknown: 2, control: 3, userDefined: 4 } as const;

const TokenId = z.int().nonnegative().optional();

/** The metadata under `tokenizer.ggml.`. */
const Vocabulary = z.looseObject({
  tokens: z.array(z.string()).nonempty(),
  token_type: z.array(z.int()).optional(),
  scores: z.array(z.number()).optional(),
  merges: z.array(z.string()).optional(),
  pre: z.string().optional(),
  add_bos_token: z.boolean().optional(),
  add_space_prefix: z.boolean().optional(),
  bos_token_id: TokenId,
  eos_token_id: TokenId,
  unknown_token_id: TokenId,
  padding_token_id: TokenId,
});
type Vocabulary = z.output<typeof Vocabulary>;

/** How each kind of `tokenizer.ggml.model` becomes a `tokenizer.json`, without what all kinds share. */
const MODELS: Readonly<Record<string, (vocabulary: Vocabulary) => TokenizerParts>> = {
  gpt2: byteLevelBpe,
  llama: sentencePieceBpe,
};

interface TokenizerParts {
  readonly normalizer: unknown;
  readonly preTokenizer: unknown;
  readonly decoder: unknown;
  readonly model: Record<string, unknown>;
  /** Whether texts begin with the BOS token where the file does not say. */
  readonly addBosByDefault: boolean;
}

/**
 * Translates the vocabulary in a GGUF file's metadata into Hugging Face's two files.
 *
 * @returns `null` where the file has none.
 * @throws {RangeError} If the kind of tokenizer or its pre-tokenizer is not supported, or the arrays do not fit
 * together.
 */
export function ggufTokenizer(metadata: ReadonlyMap<string, MetadataValue>): TokenizerFiles | null {
  const kind = metadata.get("tokenizer.ggml.model");
  if (kind === undefined || kind === "none" || kind === "no_vocab") return null;
  if (typeof kind !== "string" || !Object.hasOwn(MODELS, kind)) {
    const supported = Object.keys(MODELS).join(", ");
    throw new RangeError(`GGUF tokenizers of the kind ${kind} are not supported; supported are ${supported}`);
  }
  const prefix = "tokenizer.ggml.";
  const own = [...metadata].filter(([key]) => key.startsWith(prefix));
  const parsed = Vocabulary.safeParse(Object.fromEntries(own.map(([key, value]) => [key.slice(prefix.length), value])));
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `${prefix}${path.join(".")}: ${message}`);
    throw new RangeError(`Cannot use the tokenizer of this GGUF file:\n  ${problems.join("\n  ")}`);
  }
  const vocabulary = parsed.data;
  check(vocabulary);

  const { tokens, bos_token_id: bosId, eos_token_id: eosId } = vocabulary;
  const parts = MODELS[kind]!(vocabulary);
  const addBos = (vocabulary.add_bos_token ?? parts.addBosByDefault) && bosId !== undefined;
  const bos = bosId === undefined ? null : tokens[bosId]!;
  const template = metadata.get("tokenizer.chat_template");
  return {
    tokenizerJson: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: addedTokens(vocabulary),
      normalizer: parts.normalizer,
      pre_tokenizer: parts.preTokenizer,
      post_processor: addBos ? bosFirst(bos!, bosId) : null,
      decoder: parts.decoder,
      model: parts.model,
    },
    tokenizerConfig: {
      add_bos_token: addBos,
      bos_token: bos,
      eos_token: eosId === undefined ? null : tokens[eosId]!,
      clean_up_tokenization_spaces: false,
      ...(typeof template === "string" ? { chat_template: template } : {}),
    },
  };
}

function check({ tokens, token_type: types, scores, ...rest }: Vocabulary): void {
  const problems: string[] = [];
  for (const [name, array] of [["token_type", types], ["scores", scores]] as const) {
    if (array !== undefined && array.length !== tokens.length) {
      problems.push(`${name} has ${array.length} entries for ${tokens.length} tokens`);
    }
  }
  for (const name of ["bos", "eos", "unknown", "padding"] as const) {
    const id = rest[`${name}_token_id`];
    if (id !== undefined && id >= tokens.length) problems.push(`${name}_token_id is ${id} of ${tokens.length} tokens`);
  }
  if (problems.length > 0) {
    throw new RangeError(`Cannot use the tokenizer of this GGUF file:\n  ${problems.join("\n  ")}`);
  }
}

/** Tokens that a text can name whole; those for control are left out when tokens become text. */
function addedTokens({ tokens, token_type: types = [] }: Vocabulary): unknown[] {
  return types.flatMap((type, id) => {
    const special = type === TOKEN_TYPE.control || type === TOKEN_TYPE.unknown;
    if (!special && type !== TOKEN_TYPE.userDefined) return [];
    return [{ id, content: tokens[id]!, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
}

function bosFirst(bos: string, id: number): unknown {
  const special = (type: number) => ({ SpecialToken: { id: bos, type_id: type } });
  const sequence = (name: string, type: number) => ({ Sequence: { id: name, type_id: type } });
  return {
    type: "TemplateProcessing",
    single: [special(0), sequence("A", 0)],
    pair: [special(0), sequence("A", 0), special(1), sequence("B", 1)],
    special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
  };
}

function byteLevelBpe(vocabulary: Vocabulary): TokenizerParts {
  const { merges } = vocabulary;
  if (merges === undefined) throw new RangeError("Cannot use the tokenizer of this GGUF file: it has no merges");
  const { preTokenizers, normalizer, ignoreMerges, addBos } = byteLevelPreTokenizers(vocabulary.pre ?? "default");
  return {
    normalizer,
    preTokenizer: { type: "Sequence", pretokenizers: preTokenizers },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: bpe(vocabulary, {
      // A space inside a token is written Ġ, so that the one space is what parts the two halves.
      merges: merges.map((merge) => merge.split(" ")),
      ignore_merges: ignoreMerges,
    }),
    addBosByDefault: addBos,
  };
}

/**
 * SentencePiece's BPE: of all neighbours, those are merged first whose union has the highest score. As a list of merges
 * that is every way to cut a token into two others, best token first.
 */
function sentencePieceBpe(vocabulary: Vocabulary): TokenizerParts {
  const { tokens, scores, unknown_token_id: unknownId = 0 } = vocabulary;
  if (scores === undefined) throw new RangeError("Cannot use the tokenizer of this GGUF file: it has no scores");
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const merges: { halves: [string, string]; score: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    let cut = 0;
    for (const character of token) {
      cut += character.length;
      const halves: [string, string] = [token.slice(0, cut), token.slice(cut)];
      if (cut < token.length && ids.has(halves[0]) && ids.has(halves[1])) merges.push({ halves, score: scores[id]! });
    }
  }
  merges.sort((a, b) => b.score - a.score);

  const space = "\u2581";
  const replaceSpaces = { type: "Replace", pattern: { String: " " }, content: space };
  const addPrefix = vocabulary.add_space_prefix ?? true;
  return {
    normalizer: addPrefix
      ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: space }, replaceSpaces] }
      : replaceSpaces,
    preTokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: space }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(addPrefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: bpe(vocabulary, {
      merges: merges.map(({ halves }) => halves),
      unk_token: tokens[unknownId],
      fuse_unk: true,
      byte_fallback: true,
    }),
    addBosByDefault: true,
  };
}

function bpe({ tokens }: Vocabulary, own: Record<string, unknown>): Record<string, unknown> {
  // A token that occurs twice keeps its first id, as in ggml.
  const vocab = new Map(tokens.map((token, id) => [token, id] as const).reverse());
  return {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    vocab: Object.fromEntries([...vocab].reverse()),
    ...own,
  };
}
