import { MetaspacePreTokenizer, Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { wordSplitter } from "./bpe_words.ts";
import { TextStream } from "./text_stream.ts";
import { type TokenText, tokenText } from "./token_bytes.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";

const AddedToken = z.looseObject({ id: z.int().nonnegative(), content: z.string(), special: z.boolean() });

/** What we read of `tokenizer.json` ourselves; the library reads all of it. */
const TokenizerJson = z.looseObject({
  added_tokens: z.array(AddedToken),
  decoder: z.unknown(),
  model: z.looseObject({
    type: z.string().optional(),
    ignore_merges: z.boolean().nullish(),
    end_of_word_suffix: z.string().nullish(),
    continuing_subword_prefix: z.string().nullish(),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
  }),
});

/** A token as `tokenizer_config.json` names it: by its text, or with settings around it. */
const NamedToken = z.union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)])
  .nullish();
const TokenizerConfig = z.looseObject({ bos_token: NamedToken, eos_token: NamedToken });

export interface EncodeOptions {
  /** Whether to add what the model expects around a text, such as BOS. Not for text that a chat template made. */
  readonly addSpecialTokens: boolean;
}

export interface DecodeOptions {
  /**
   * Whether other text comes right before. Tokenizers like Llama 2's put a space in front of a text, and it is dropped
   * from the first token; in the continuation of a prompt that space is real.
   */
  readonly continues?: boolean;
}

/** Turns text into token ids and back. */
export class Tokenizer {
  /** One more than the highest id; the model's vocabulary can be larger. */
  readonly vocabSize: number;
  /** The BOS token of `tokenizer_config.json`. */
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly #library: LibraryTokenizer;
  readonly #text: TokenText;
  readonly #special: ReadonlySet<number>;
  readonly #added: ReadonlyMap<number, string>;
  /** Filled as tokens are met; a vocabulary has many that never are. */
  readonly #bytes: (Uint8Array<ArrayBuffer> | undefined)[] = [];

  /**
   * @throws {RangeError} If the files do not make a tokenizer that we support; the message says why.
   */
  constructor({ tokenizerJson, tokenizerConfig }: TokenizerFiles) {
    const json = parse("tokenizer.json", TokenizerJson, tokenizerJson);
    const config = parse("tokenizer_config.json", TokenizerConfig, tokenizerConfig);
    this.#text = tokenText(json.decoder);
    try {
      this.#library = new LibraryTokenizer(tokenizerJson, tokenizerConfig);
    } catch (error) {
      throw new RangeError(
        `Cannot make a tokenizer of tokenizer.json: ${error instanceof Error ? error.message : error}`,
      );
    }
    encodeWordByWord(this.#library, json.model);
    this.vocabSize = this.#library.get_vocab().values().reduce((size, id) => Math.max(size, id + 1), 0);
    this.bosToken = config.bos_token ?? null;
    this.eosToken = config.eos_token ?? null;
    this.#special = new Set(json.added_tokens.filter(({ special }) => special).map(({ id }) => id));
    this.#added = new Map(json.added_tokens.map(({ id, content }) => [id, content]));
  }

  /** `null` where the tokenizer names no BOS token. */
  get bosTokenId(): number | null {
    return this.bosToken === null ? null : this.tokenId(this.bosToken);
  }

  /** `null` where the tokenizer names no EOS token. A model's configuration may name more than this one. */
  get eosTokenId(): number | null {
    return this.eosToken === null ? null : this.tokenId(this.eosToken);
  }

  /** The id of a token by its text in the vocabulary. */
  tokenId(token: string): number | null {
    return this.#library.token_to_id(token) ?? null;
  }

  /** A text as token ids. Special tokens that the text names become those tokens. */
  encode(text: string, { addSpecialTokens }: EncodeOptions): number[] {
    return this.#library.encode(text, { add_special_tokens: addSpecialTokens }).ids;
  }

  /**
   * Token ids as text, without the special ones. Ids beyond the vocabulary, which a model with a padded embedding can
   * emit, are nothing. Spaces before punctuation stay, whatever `clean_up_tokenization_spaces` says: to take them away
   * would change what the model wrote.
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const stream = this.stream(options);
    let text = "";
    for (const id of ids) text += stream.push(id);
    return text + stream.flush();
  }

  /** Starts to turn tokens into text one by one; the pieces in a row are what {@linkcode decode} gives for all. */
  stream({ continues = false }: DecodeOptions = {}): TextStream {
    return new TextStream((id) => this.#special.has(id) ? NO_BYTES : this.tokenBytes(id), {
      dropLeadingSpace: this.#text.leadingSpace && !continues,
    });
  }

  /** The bytes that a token stands for by itself, special or not; they need not be whole characters. */
  tokenBytes(id: number): Uint8Array<ArrayBuffer> {
    return this.#bytes[id] ??= this.#readTokenBytes(id);
  }

  /** A token by itself as text, special or not, as lists of log-probabilities show it; U+FFFD for parts of characters. */
  tokenText(id: number): string {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.tokenBytes(id));
  }

  #readTokenBytes(id: number): Uint8Array<ArrayBuffer> {
    const added = this.#added.get(id);
    if (added !== undefined) return new TextEncoder().encode(added);
    const token = this.#library.id_to_token(id);
    return token === undefined ? NO_BYTES : this.#text.bytesOf(token);
  }
}

const NO_BYTES = new Uint8Array(0);

/** The library calls its pre-tokenizers as functions, which its types do not show. */
type PreTokenize = (text: string, options: unknown) => string[];

/** Lets the library encode a text in parts where that gives the same; see {@linkcode wordSplitter}. */
function encodeWordByWord(library: LibraryTokenizer, model: z.output<typeof TokenizerJson>["model"]): void {
  const isWhole = library.pre_tokenizer === null || library.pre_tokenizer instanceof MetaspacePreTokenizer;
  const changesWithWords = model.ignore_merges || model.end_of_word_suffix || model.continuing_subword_prefix;
  if (!isWhole || model.type !== "BPE" || changesWithWords) return;
  const merges = model.merges ?? [];
  const split = wordSplitter(merges.map((merge) => (Array.isArray(merge) ? merge : merge.split(" ")).join("")));
  const inner = library.pre_tokenizer as unknown as PreTokenize | null;
  const words: PreTokenize = (text, options) => (inner === null ? [text] : inner(text, options)).flatMap(split);
  library.pre_tokenizer = words as unknown as MetaspacePreTokenizer;
}

function parse<T>(file: string, schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw new RangeError(`Cannot use ${file}:\n  ${problems.join("\n  ")}`);
}
