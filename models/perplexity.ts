import type { Runtime } from "../onnx/mod.ts";
import { densePlan, readAttention, readGatedMlp } from "./block_tensors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { Decoder } from "./decoder.ts";
import { type BlockWeights, DenseBlock, DenseHead } from "./dense_block.ts";
import { originalPairs, packAttention, packGatedMlp } from "./layout.ts";

export interface Perplexity {
  readonly perplexity: number;
  /** Tokens that were predicted. */
  readonly tokens: number;
}

/** Told after each piece of work, `done` of `total`. */
export type Progress = (done: number, total: number) => void;

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

/** Perplexity of a checkpoint in float32, its layers streamed: memory is one layer and the windows' activations. */
export async function densePerplexity(
  runtime: Runtime,
  checkpoint: Checkpoint,
  windows: readonly Int32Array[],
  { threads, progress }: { threads: number; progress?: Progress },
): Promise<Perplexity> {
  const { description } = checkpoint;
  const plan = densePlan(description);
  const { hiddenSize, tieWordEmbeddings } = description.config;
  const embedding = await checkpoint.read(description.embedding);
  const hidden = windows.map((window) => embed(embedding, window, hiddenSize));
  const blocks = description.layers.flat();
  const total = blocks.length + 1;

  const open = new Map<string, DenseBlock>();
  try {
    for (const [index, block] of blocks.entries()) {
      let dense = open.get(block.kind);
      if (dense === undefined) {
        dense = await DenseBlock.open(runtime, { plan, block: plan.layers.flat()[index]!, threads });
        open.set(block.kind, dense);
      }
      const norm = await checkpoint.read(block.norm);
      const weights: BlockWeights = block.kind === "attention"
        ? {
          kind: "attention",
          norm,
          ...packAttention(
            description.config,
            await readAttention(checkpoint, block),
            originalPairs(description.config),
          ),
        }
        : {
          kind: "gatedMlp",
          norm,
          ...packGatedMlp(
            description.config,
            await readGatedMlp(checkpoint, block),
            Array.from({ length: description.config.intermediateSize }, (_, channel) => channel),
          ),
        };
      dense.setWeights(weights);
      for (const window of hidden) await dense.run(window);
      progress?.(index + 1, total);
    }
  } finally {
    for (const dense of open.values()) dense.close();
  }
  using head = await DenseHead.open(runtime, {
    plan,
    threads,
    norm: await checkpoint.read(description.finalNorm),
    head: tieWordEmbeddings ? embedding : await checkpoint.read(description.head!),
  });
  let [sum, count] = [0, 0];
  for (const [index, window] of windows.entries()) {
    const logits = await head.run(hidden[index]!);
    sum += negativeLogLikelihood(logits, description.config.vocabSize, window);
    count += window.length - 1;
  }
  progress?.(total, total);
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

/** Rows of the embedding: `[T]` → `[T, D]`. */
export function embed(
  embedding: Float32Array,
  tokens: ArrayLike<number>,
  hiddenSize: number,
): Float32Array<ArrayBuffer> {
  const hidden = new Float32Array(tokens.length * hiddenSize);
  for (let row = 0; row < tokens.length; row++) {
    const token = tokens[row]!;
    hidden.set(embedding.subarray(token * hiddenSize, (token + 1) * hiddenSize), row * hiddenSize);
  }
  return hidden;
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
