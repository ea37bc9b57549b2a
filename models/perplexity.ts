import type { Runtime } from "../onnx/mod.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { Decoder } from "./decoder.ts";
import { denseLogits, type DenseOptions, type Progress } from "./dense_model.ts";

export interface Perplexity {
  readonly perplexity: number;
  /** Tokens that were predicted. */
  readonly tokens: number;
  /** Of the perplexity, from how windows differ; `null` for one window, which tells nothing of that. */
  readonly standardError: number | null;
}

/** A perplexity and what it comes from. */
export interface WindowedPerplexity extends Perplexity {
  readonly windows: readonly WindowLoss[];
}

/** What a window costs. */
export interface WindowLoss {
  /** Sum of −log P over its predicted tokens, natural logarithm. */
  readonly loss: number;
  readonly tokens: number;
}

/**
 * Perplexity of windows, exp(m) with the mean loss m of a token. Tokens of a window depend on each other, so the windows
 * are what was drawn: m is a ratio of their sums, and its variance is taken to first order, as is that of exp(m).
 *
 * @throws {RangeError} If no token was predicted, or the model's logits are such that there is no perplexity.
 * @see Cochran, Sampling Techniques, 3rd edition, section 6.3 (ratio estimate)
 */
export function perplexityOf(windows: readonly WindowLoss[]): WindowedPerplexity {
  const tokens = windows.reduce((sum, window) => sum + window.tokens, 0);
  const mean = windows.reduce((sum, { loss }) => sum + loss, 0) / tokens;
  if (tokens === 0) throw new RangeError("Cannot measure perplexity: no token of these windows counts");
  const perplexity = Math.exp(mean);
  if (!Number.isFinite(perplexity)) throw new RangeError(`Cannot measure perplexity: the mean loss is ${mean}`);
  const count = windows.length;
  const squares = windows.reduce((sum, window) => sum + (window.loss - mean * window.tokens) ** 2, 0);
  const standardError = count < 2 ? null : perplexity * Math.sqrt(count / (count - 1) * squares) / tokens;
  return { perplexity, tokens, standardError, windows };
}

/**
 * How many times another perplexity one is, over the same windows, with its standard error: windows are hard or easy for
 * both, so the ratio is known much better than either.
 *
 * @throws {RangeError} If the windows are not the same.
 */
export function perplexityRatio(
  { windows }: Pick<WindowedPerplexity, "windows">,
  other: Pick<WindowedPerplexity, "windows">,
): Pick<Perplexity, "standardError"> & { readonly ratio: number } {
  if (windows.length !== other.windows.length || windows.some(({ tokens }, i) => tokens !== other.windows[i]!.tokens)) {
    throw new RangeError(`Cannot compare ${windows.length} windows with ${other.windows.length} others`);
  }
  const differences = windows.map(({ loss, tokens }, i) => ({ loss: loss - other.windows[i]!.loss, tokens }));
  const { perplexity: ratio, standardError } = perplexityOf(differences);
  return { ratio, standardError };
}

/**
 * Consecutive windows of `length` tokens. The first token of each is context only, so a window predicts `length − 1`.
 *
 * @param maxTokens At most so many tokens are taken from the front.
 * @throws {RangeError} If there is not even one whole window.
 */
export function windowsOf(
  tokens: ArrayLike<number>,
  { length, maxTokens = Infinity }: { length: number; maxTokens?: number },
): Int32Array[] {
  const usable = Math.min(tokens.length, maxTokens);
  const count = Math.floor(usable / length);
  if (count === 0 || length < 2) {
    throw new RangeError(`Cannot cut ${usable} tokens into windows of ${length}`);
  }
  const all = Int32Array.from({ length: count * length }, (_, i) => tokens[i]!);
  return Array.from({ length: count }, (_, window) => all.subarray(window * length, (window + 1) * length));
}

/** Perplexity of a checkpoint in float32. */
export async function densePerplexity(
  runtime: Runtime,
  checkpoint: Checkpoint,
  windows: readonly Int32Array[],
  options: DenseOptions,
): Promise<WindowedPerplexity> {
  const { vocabSize } = checkpoint.description.config;
  const losses: WindowLoss[] = [];
  await denseLogits(runtime, checkpoint, windows, (logits, window) => {
    losses.push({ loss: negativeLogLikelihood(logits, vocabSize, window), tokens: window.length - 1 });
  }, options);
  return perplexityOf(losses);
}

/** Perplexity of one level of an open artefact. */
export async function elasticPerplexity(
  decoder: Decoder,
  level: number,
  windows: readonly Int32Array[],
  { progress }: { progress?: Progress } = {},
): Promise<WindowedPerplexity> {
  const losses: WindowLoss[] = [];
  for (const [index, window] of windows.entries()) {
    let loss = 0;
    const sequence = decoder.openSequence(level);
    try {
      for (let start = 0; start < window.length; start += decoder.maxRows) {
        const tokens = window.subarray(start, start + decoder.maxRows);
        const [logits] = await decoder.step([{ sequence, tokens, logits: "all" }]);
        // The last row predicts the first token of the next piece, or of nothing.
        loss += negativeLogLikelihood(
          logits!,
          decoder.plan.config.vocabSize,
          window.subarray(start, start + tokens.length + 1),
        );
      }
    } finally {
      sequence.close();
    }
    losses.push({ loss, tokens: window.length - 1 });
    progress?.(index + 1, windows.length);
  }
  return perplexityOf(losses);
}

/**
 * Perplexity of the second halves of windows whose first halves ran at another level: what narrowing a sequence half way
 * costs, or, with both levels alike, what it is measured against.
 */
export async function narrowedPerplexity(
  decoder: Decoder,
  { from, to }: { from: number; to: number },
  windows: readonly Int32Array[],
  { progress }: { progress?: Progress } = {},
): Promise<WindowedPerplexity> {
  const { vocabSize } = decoder.plan.config;
  const losses: WindowLoss[] = [];
  for (const [index, window] of windows.entries()) {
    let loss = 0;
    const half = window.length >> 1;
    const sequence = decoder.openSequence(from);
    try {
      for (let start = 0; start < window.length;) {
        const end = Math.min(start + decoder.maxRows, start < half ? half : window.length);
        if (start === half && to > from) sequence.narrow(to);
        const logits = start < half ? "none" : "all";
        const [rows] = await decoder.step([{ sequence, tokens: window.subarray(start, end), logits }]);
        if (start >= half) loss += negativeLogLikelihood(rows!, vocabSize, window.subarray(start, end + 1));
        start = end;
      }
    } finally {
      sequence.close();
    }
    losses.push({ loss, tokens: window.length - half - 1 });
    progress?.(index + 1, windows.length);
  }
  return perplexityOf(losses);
}

/**
 * Sum over rows `r` of −log P(tokens[r + 1]), natural logarithm, as far as there is a next token.
 *
 * @param logits `[rows, V]`
 */
export function negativeLogLikelihood(logits: Float32Array, vocabSize: number, tokens: ArrayLike<number>): number {
  const rows = Math.min(logits.length / vocabSize, tokens.length - 1);
  let total = 0;
  for (let row = 0; row < rows; row++) {
    const line = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    let max = -Infinity;
    for (let i = 0; i < line.length; i++) if (line[i]! > max) max = line[i]!;
    let sum = 0;
    for (let i = 0; i < line.length; i++) sum += Math.exp(line[i]! - max);
    total += max + Math.log(sum) - line[tokens[row + 1]!]!;
  }
  return total;
}
