import type { Runtime } from "../onnx/mod.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { Decoder } from "./decoder.ts";
import { denseLogits, type DenseOptions, type Progress } from "./dense_model.ts";

export interface Perplexity {
  readonly perplexity: number;
  /** Tokens that were predicted. */
  readonly tokens: number;
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
): Promise<Perplexity> {
  const { vocabSize } = checkpoint.description.config;
  let [sum, count] = [0, 0];
  await denseLogits(runtime, checkpoint, windows, (logits, window) => {
    sum += negativeLogLikelihood(logits, vocabSize, window);
    count += window.length - 1;
  }, options);
  return { perplexity: Math.exp(sum / count), tokens: count };
}

/** Perplexity of one level of an open artefact. */
export async function elasticPerplexity(
  decoder: Decoder,
  level: number,
  windows: readonly Int32Array[],
  { progress }: { progress?: Progress } = {},
): Promise<Perplexity> {
  let [sum, count] = [0, 0];
  for (const [index, window] of windows.entries()) {
    const sequence = decoder.openSequence(level);
    try {
      for (let start = 0; start < window.length; start += decoder.maxRows) {
        const tokens = window.subarray(start, start + decoder.maxRows);
        const [logits] = await decoder.step([{ sequence, tokens, logits: "all" }]);
        // The last row predicts the first token of the next piece, or of nothing.
        sum += negativeLogLikelihood(
          logits!,
          decoder.plan.config.vocabSize,
          window.subarray(start, start + tokens.length + 1),
        );
      }
    } finally {
      sequence.close();
    }
    count += window.length - 1;
    progress?.(index + 1, windows.length);
  }
  return { perplexity: Math.exp(sum / count), tokens: count };
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
): Promise<Perplexity> {
  const { vocabSize } = decoder.plan.config;
  let [sum, count] = [0, 0];
  for (const [index, window] of windows.entries()) {
    const half = window.length >> 1;
    const sequence = decoder.openSequence(from);
    try {
      for (let start = 0; start < window.length;) {
        const end = Math.min(start + decoder.maxRows, start < half ? half : window.length);
        if (start === half && to > from) sequence.narrow(to);
        const logits = start < half ? "none" : "all";
        const [rows] = await decoder.step([{ sequence, tokens: window.subarray(start, end), logits }]);
        if (start >= half) sum += negativeLogLikelihood(rows!, vocabSize, window.subarray(start, end + 1));
        start = end;
      }
    } finally {
      sequence.close();
    }
    count += window.length - half - 1;
    progress?.(index + 1, windows.length);
  }
  return { perplexity: Math.exp(sum / count), tokens: count };
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
