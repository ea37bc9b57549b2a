/** The rest of an answer. */
export interface AwaitedAnswer {
  /** Tokens that are still to come. */
  readonly newTokens: number;
  /** Milliseconds until its last token is due; infinite if it is due at no time. */
  readonly leftMs: number;
}

/** An answer whose prompt has not been taken yet. */
export interface AwaitedPrompt extends AwaitedAnswer {
  /** Milliseconds until its first token is due; infinite if it is due at no time. */
  readonly firstLeftMs: number;
  /** Steps until its prompt is taken, the next one included. */
  readonly steps: number;
}

export interface HoldOptions {
  /** Answers on their way. */
  readonly decoding: readonly AwaitedAnswer[];
  /** Answers to the prompts of the next step. */
  readonly prompts: readonly AwaitedPrompt[];
  /** Predicted milliseconds of the next step with its prompts. */
  readonly mixedMs: number;
  /** The same without them. */
  readonly decodeMs: number;
  /** What predictions are multiplied by to be safe: what may well be lost by a decision counts as lost by it. */
  readonly safe: number;
  /** What they are multiplied by to be likely: what is likely to be lost anyway does not count. */
  readonly likely: number;
}

/** Steps until a prompt is taken of which the next one takes `rows`. */
export function stepsOfPrompt(
  { promptTokens, rows, prefillChunk }: {
    readonly promptTokens: number;
    readonly rows: number;
    readonly prefillChunk: number;
  },
): number {
  return 1 + Math.ceil((promptTokens - rows) / prefillChunk);
}

/**
 * Whether the next step is to leave prompts out: one more step with them would cost answers their budgets, and fewer are
 * lost by waiting for these answers to end. A step with a full chunk takes as long as ten that only decode, and whoever
 * decodes gets one token in it; those held back lose a few short steps, in which others decode too.
 *
 * No prompt waits for ever: the answers that it can wait for are those that decode now.
 */
export function holdsPrompts({ decoding, prompts, mixedMs, decodeMs, safe, likely }: HoldOptions): boolean {
  const loses = (leftMs: number, ms: number, lateMs: number) => ms * likely <= leftMs && lateMs * safe > leftMs;
  const endangered = decoding.filter(({ newTokens, leftMs }) =>
    loses(leftMs, newTokens * decodeMs, mixedMs + (newTokens - 1) * decodeMs)
  );
  if (endangered.length === 0) return false;
  const heldMs = decodeMs * Math.max(...endangered.map(({ newTokens }) => newTokens));
  const harmed = prompts.filter(({ newTokens, leftMs, firstLeftMs, steps }) => {
    const firstMs = steps * mixedMs;
    const ms = firstMs + (newTokens - 1) * decodeMs;
    return loses(leftMs, ms, heldMs + ms) || loses(firstLeftMs, firstMs, heldMs + firstMs);
  });
  return harmed.length < endangered.length;
}
