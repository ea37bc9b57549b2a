import type { Runtime } from "../onnx/mod.ts";
import { BlockSessions } from "./block_sessions.ts";
import { densePlan, packOriginal, readBlock } from "./block_tensors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { DenseHead } from "./dense_block.ts";

/** Told after each piece of work, `done` of `total`. */
export type Progress = (done: number, total: number) => void;

export interface DenseOptions {
  readonly threads: number;
  readonly progress?: Progress;
}

/**
 * Runs whole sequences through a checkpoint in float32, layer by layer over all of them: memory is one layer and the
 * sequences' activations, however large the model.
 *
 * @param receive Given each sequence's logits `[T, V]`, one sequence after the other.
 */
export async function denseLogits(
  runtime: Runtime,
  checkpoint: Checkpoint,
  sequences: readonly Int32Array[],
  receive: (logits: Float32Array, sequence: Int32Array) => void,
  { threads, progress }: DenseOptions,
): Promise<void> {
  const { description } = checkpoint;
  const { hiddenSize, tieWordEmbeddings } = description.config;
  const plan = densePlan(description);
  const embedding = await checkpoint.read(description.embedding);
  const hidden = sequences.map((tokens) => embed(embedding, tokens, hiddenSize));
  const blocks = description.layers.flat();
  const total = blocks.length + 1;

  { // the head opens when these are closed: their memory is free then
    using sessions = new BlockSessions({ runtime, plan, threads });
    for (const [index, block] of blocks.entries()) {
      const dense = await sessions.open(plan.layers.flat()[index]!);
      dense.setWeights(packOriginal(description.config, await readBlock(checkpoint, block)));
      for (const sequence of hidden) await dense.run(sequence);
      progress?.(index + 1, total);
    }
  }
  using head = await DenseHead.open(runtime, {
    plan,
    threads,
    norm: await checkpoint.read(description.finalNorm),
    head: tieWordEmbeddings ? embedding : await checkpoint.read(description.head!),
  });
  for (const [index, sequence] of sequences.entries()) receive(await head.run(hidden[index]!), sequence);
  progress?.(total, total);
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
