/** The thread of a {@linkcode ThreadedTokenizer}: first it is sent a tokenizer's files, then texts to encode. */

import { type EncodeOptions, Tokenizer } from "./tokenizer.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";

/** A text to encode. */
export interface Question extends EncodeOptions {
  readonly id: number;
  readonly text: string;
}

/** Its tokens, or what went wrong. */
export type Answer =
  | { readonly id: number; readonly tokens: readonly number[] }
  | { readonly id: number; readonly problem: string };

/** What a worker's global object has, which the types of a window lack. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<TokenizerFiles | Question>) => void) | null;
  postMessage(answer: Answer): void;
}

const scope = self as unknown as WorkerScope;
let tokenizer: Tokenizer | undefined;

scope.onmessage = ({ data }) => {
  if ("tokenizerJson" in data) {
    tokenizer = new Tokenizer(data);
    return;
  }
  const { id, text, addSpecialTokens } = data;
  try {
    scope.postMessage({ id, tokens: tokenizer!.encode(text, { addSpecialTokens }) });
  } catch (error) {
    scope.postMessage({ id, problem: error instanceof Error ? error.message : String(error) });
  }
};
