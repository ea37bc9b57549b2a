/** Answers that are remembered. Clients change, and a service runs for months. */
const WINDOW = 100;

export interface AnswerLength {
  readonly tokens: number;
  /** Whether it ended by itself. If not, it was cut off: it would have been longer. */
  readonly ended: boolean;
}

/**
 * How long answers are expected to get, from those that ended lately: of the answers that came to a length, so many ended
 * there. An answer that was cut off counts up to where it was, so a client that allows no more than it gets and one that
 * allows far more tell the same about the lengths of answers.
 *
 * One more is assumed that is longer than all of them, since each of `n + 1` is the longest equally often. Beyond the
 * longest an answer ends at each token as often as it did up to there, on average.
 *
 * @see Kaplan and Meier, Nonparametric estimation from incomplete observations, 1958
 * @see Brown, Hollander and Korwar, Nonparametric tests of independence for censored data, 1974, for what lies beyond
 */
export class AnswerLengths {
  readonly #answers: AnswerLength[] = [];
  /** The lengths that were seen, the shortest first, and the share of those that came so far and went on. */
  #seen: readonly { readonly tokens: number; readonly goOn: number }[] = [];
  /** The share that goes on at a token beyond the longest. */
  #goOnBeyond = 1;

  add(answer: AnswerLength): void {
    this.#answers.push(answer);
    if (this.#answers.length > WINDOW) this.#answers.shift();
    const byLength = Map.groupBy(this.#answers.toSorted((a, b) => a.tokens - b.tokens), ({ tokens }) => tokens);
    let longer = this.#answers.length + 1;
    this.#seen = Array.from(byLength, ([tokens, answers]) => {
      const goOn = 1 - answers.filter(({ ended }) => ended).length / longer;
      longer -= answers.length;
      return { tokens, goOn };
    });
    const longerThanAll = this.#seen.reduce((share, { goOn }) => share * goOn, 1);
    this.#goOnBeyond = longerThanAll ** (1 / this.#seen.at(-1)!.tokens);
  }

  /**
   * The mean of the tokens that are still to come to an answer that has some and goes on: 1 at least, and all that it may
   * have while no answer has ended by itself.
   *
   * @param tokens That it has.
   * @param maxTokens That it may have.
   */
  remaining(tokens: number, maxTokens: number): number {
    let [at, share, mean] = [tokens, 1, 0];
    for (const { tokens, goOn } of this.#seen) {
      if (tokens <= at) continue;
      if (tokens >= maxTokens) return mean + share * (maxTokens - at);
      mean += share * (tokens - at);
      [at, share] = [tokens, share * goOn];
    }
    const [more, goOn] = [maxTokens - at, this.#goOnBeyond];
    return mean + share * (goOn === 1 ? more : (1 - goOn ** more) / (1 - goOn));
  }
}
