/** Tokens of many stories in a row, each after an end-of-text token. */
export interface TokenStream {
  readonly tokens: Uint16Array;
  /** Where stories begin: at their end-of-text token. */
  readonly starts: readonly number[];
}

/** Joins stories that were encoded one by one, each beginning with an end-of-text token. */
export function joinStories(stories: readonly (readonly number[])[]): TokenStream {
  const tokens = new Uint16Array(stories.reduce((sum, story) => sum + story.length, 0));
  const starts: number[] = [];
  let end = 0;
  for (const story of stories) {
    starts.push(end);
    tokens.set(story, end);
    end += story.length;
  }
  return { tokens, starts };
}

/** Sequences to learn, one after the other: each token's target is the token after it. */
export interface Batch {
  /** `[sequences · length]` */
  readonly tokens: BigInt64Array<ArrayBuffer>;
  readonly targets: BigInt64Array<ArrayBuffer>;
}

/**
 * Fills a batch with windows of a stream: every other one begins where a story does, as a prompt will; the others anywhere.
 *
 * @param random Uniform in [0, 1).
 * @throws {RangeError} If the stream is shorter than a window and one token.
 */
export function fillWithRandomWindows(
  { tokens, starts }: TokenStream,
  length: number,
  batch: Batch,
  random: () => number,
): void {
  const last = tokens.length - length - 1;
  const fitting = starts.filter((start) => start <= last);
  if (fitting.length === 0) {
    throw new RangeError(`Cannot take windows of ${length} tokens and a target from ${tokens.length}: too few`);
  }
  for (let at = 0, row = 0; at < batch.tokens.length; at += length, row++) {
    const start = row % 2 === 0 ? fitting[Math.floor(random() * fitting.length)]! : Math.floor(random() * (last + 1));
    fillWindow(tokens, start, length, batch, at);
  }
}

/** Copies the window from `start` on into a batch, from row `at` on. */
export function fillWindow(tokens: Uint16Array, start: number, length: number, batch: Batch, at: number): void {
  for (let i = 0; i < length; i++) {
    batch.tokens[at + i] = BigInt(tokens[start + i]!);
    batch.targets[at + i] = BigInt(tokens[start + i + 1]!);
  }
}
