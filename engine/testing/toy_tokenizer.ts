import type { TextTokenizer } from "../text_generation.ts";

interface ToyTokenizer extends TextTokenizer {
  encode(text: string): number[];
  tokenBytes(token: number): Uint8Array;
}

/** Tokens 1 to 26 are letters, 27 a space; 28 and 29 are the two halves of "é"; 0, 30 and 31 have no text. */
export const toyTokenizer: ToyTokenizer = {
  encode: (text) => Array.from(text, (letter) => letter === " " ? 27 : letter.charCodeAt(0) - 96),
  stream() {
    const decoder = new TextDecoder();
    return {
      push: (token) => decoder.decode(bytesOf(token), { stream: true }),
      flush: () => decoder.decode(),
    };
  },
  tokenBytes: bytesOf,
  tokenText: (token) => new TextDecoder().decode(bytesOf(token)),
};

function bytesOf(token: number): Uint8Array<ArrayBuffer> {
  if (token >= 1 && token <= 26) return Uint8Array.of(token + 96);
  return Uint8Array.from({ 27: [0x20], 28: [0xc3], 29: [0xa9] }[token] ?? []);
}
