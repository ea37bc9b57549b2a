import { BYTE_ALPHABET } from "../../models/byte_alphabet.ts";
import type { TokenizerFiles } from "../../models/tokenizer_files.ts";
import { END_OF_TEXT } from "./stories.ts";

/** GPT-2's words: a contraction's end; letters, digits or other signs, each with the space before; runs of space. */
const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/**
 * Learns a byte-level BPE tokenizer: the pair of tokens that is most frequent within words becomes a token, again and
 * again. It round-trips any text, since each byte is a token of its own. `<|endoftext|>`, id 0, begins and ends texts.
 *
 * @param vocabSize Tokens in all; 257 are the bytes and `<|endoftext|>`.
 * @throws {RangeError} If the texts have too few different words for that many tokens.
 * @see https://arxiv.org/abs/1508.07909
 */
export function trainTokenizer(texts: Iterable<string>, vocabSize: number): TokenizerFiles {
  const { tokens, merges } = learnMerges(countWords(texts), [END_OF_TEXT, ...BYTE_ALPHABET], vocabSize);
  if (tokens.length < vocabSize) {
    throw new RangeError(`Cannot learn a vocabulary of ${vocabSize} tokens: these texts give only ${tokens.length}`);
  }
  const special = { id: 0, content: END_OF_TEXT, special: true };
  return {
    tokenizerJson: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: [{ ...special, single_word: false, lstrip: false, rstrip: false, normalized: false }],
      normalizer: null,
      pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: END_OF_TEXT, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [
          { SpecialToken: { id: END_OF_TEXT, type_id: 0 } },
          { Sequence: { id: "A", type_id: 0 } },
          { SpecialToken: { id: END_OF_TEXT, type_id: 1 } },
          { Sequence: { id: "B", type_id: 1 } },
        ],
        special_tokens: { [END_OF_TEXT]: { id: END_OF_TEXT, ids: [0], tokens: [END_OF_TEXT] } },
      },
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges,
      },
    },
    tokenizerConfig: {
      add_prefix_space: false,
      bos_token: END_OF_TEXT,
      eos_token: END_OF_TEXT,
      unk_token: null,
      clean_up_tokenization_spaces: false,
      tokenizer_class: "PreTrainedTokenizerFast",
    },
  };
}

interface Word {
  /** The tokens that it consists of by now. */
  tokens: string[];
  readonly count: number;
}

function countWords(texts: Iterable<string>): Word[] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(WORD)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const encoder = new TextEncoder();
  return [...counts].map(([word, count]) => ({
    tokens: Array.from(encoder.encode(word), (byte) => BYTE_ALPHABET[byte]!),
    count,
  }));
}

/** Merges in the order in which they were learned; pairs of equal frequency in the order of their text. */
function learnMerges(
  words: readonly Word[],
  alphabet: readonly string[],
  vocabSize: number,
): { tokens: string[]; merges: [string, string][] } {
  const pairs = new PairCounts();
  for (const word of words) pairs.add(word, 1);
  const tokens = new Set(alphabet);
  const merges: [string, string][] = [];
  while (tokens.size < vocabSize) {
    const best = pairs.mostFrequent();
    if (best === null) break;
    const { left, right } = best;
    for (const word of [...best.words]) {
      pairs.add(word, -1);
      word.tokens = merged(word.tokens, left, right);
      pairs.add(word, 1);
    }
    merges.push([left, right]);
    tokens.add(left + right); // there already, if another pair gave the same text
  }
  return { tokens: [...tokens], merges };
}

function merged(tokens: readonly string[], left: string, right: string): string[] {
  const result: string[] = [];
  for (let i = 0; i < tokens.length; i++) {
    if (tokens[i] === left && tokens[i + 1] === right) {
      result.push(left + right);
      i++;
    } else {
      result.push(tokens[i]!);
    }
  }
  return result;
}

interface Pair {
  readonly left: string;
  readonly right: string;
  count: number;
  /** Words that have it, or had it. */
  readonly words: Set<Word>;
}

/** How often each pair of neighbouring tokens occurs, kept up to date while words change. */
class PairCounts {
  readonly #pairs = new Map<string, Pair>();

  /** Adds the pairs of a word, or takes them away. */
  add(word: Word, sign: 1 | -1): void {
    const { tokens, count } = word;
    for (let i = 0; i + 1 < tokens.length; i++) {
      const [left, right] = [tokens[i]!, tokens[i + 1]!];
      const key = `${left} ${right}`; // no token has a space: the alphabet's is another character
      let pair = this.#pairs.get(key);
      if (pair === undefined) this.#pairs.set(key, pair = { left, right, count: 0, words: new Set() });
      pair.count += sign * count;
      if (sign > 0) pair.words.add(word);
      else pair.words.delete(word);
      if (pair.count === 0) this.#pairs.delete(key);
    }
  }

  /** Null where no pair is left that occurs twice. */
  mostFrequent(): Pair | null {
    let best: Pair | null = null;
    for (const pair of this.#pairs.values()) {
      if (pair.count < 2 || (best !== null && pair.count < best.count)) continue;
      if (best === null || pair.count > best.count || isBefore(pair, best)) best = pair;
    }
    return best;
  }
}

function isBefore(a: Pair, b: Pair): boolean {
  return a.left < b.left || (a.left === b.left && a.right < b.right);
}
