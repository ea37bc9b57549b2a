/** The largest of some tokens, -1 if there are none. */
export function largestToken(tokens: ArrayLike<number>): number {
  let largest = -1;
  for (let i = 0; i < tokens.length; i++) largest = Math.max(largest, tokens[i]!);
  return largest;
}

/**
 * A tokenizer can know more than the model it came with; such a token has no row in the embedding.
 *
 * @throws {RangeError} Naming one that the model lacks.
 */
export function checkTokens(tokens: ArrayLike<number>, vocabSize: number): void {
  const largest = largestToken(tokens);
  if (largest >= vocabSize) {
    throw new RangeError(`The tokenizer makes token ${largest} of this text, the model knows ${vocabSize}`);
  }
}
