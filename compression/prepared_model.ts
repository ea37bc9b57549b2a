import { type BlockTensors, readBlock } from "../models/block_tensors.ts";
import type { Checkpoint } from "../models/checkpoint.ts";
import type { Block, ModelConfig } from "../models/description.ts";
import type { Floats } from "../models/floats.ts";
import { methodOf } from "./blocks/mod.ts";

/** An orthogonal map of the residual axis, applied in place to every row of `[rows, D]`. */
export type RowRotation = (rows: Floats) => void;

/** A checkpoint, read block by block; with a rotation, the same function on a rotated residual stream. */
export interface PreparedModel {
  readonly config: ModelConfig;
  readBlock(block: Block): Promise<BlockTensors>;
  /** `[V, D]` */
  readEmbedding(): Promise<Floats>;
  readFinalNorm(): Promise<Floats>;
  /** The head if it is not the embedding, `[V, D]`. */
  readHead(): Promise<Floats | null>;
  /** What a tied head needs before it when the stream is rotated, `[D, D]`. */
  readHeadRotation(): Promise<Floats | null>;
}

/** The checkpoint as it is. */
export function prepareModel(checkpoint: Checkpoint): PreparedModel {
  const { description } = checkpoint;
  return {
    config: description.config,
    readBlock: (block) => readBlock(checkpoint, block),
    readEmbedding: () => checkpoint.read(description.embedding),
    readFinalNorm: () => checkpoint.read(description.finalNorm),
    readHead: async () => description.head === null ? null : await checkpoint.read(description.head),
    readHeadRotation: () => Promise.resolve(null),
  };
}

/**
 * Rotates the residual stream: `h̃ = h · Q`. Norm weights are folded into what reads the stream, because an RMS norm
 * commutes with Q only without them; what writes the stream has its outputs rotated (uniql.md §6.2).
 *
 * A tied head cannot take the last norm's weight, since the embedding must not: `Qᵀ · diag(γ) · Q` goes before it.
 */
export function rotateResidual(model: PreparedModel, rotate: RowRotation): PreparedModel {
  const { hiddenSize } = model.config;
  const ones = () => new Float32Array(hiddenSize).fill(1);
  const reader = (weight: Floats, norm: Floats) => {
    const folded = weight.map((value, i) => value * norm[i % hiddenSize]!);
    rotate(folded);
    return folded;
  };
  const writer = (weight: Floats) => {
    const columns = transpose(weight, hiddenSize);
    rotate(columns);
    return transpose(columns, columns.length / hiddenSize);
  };
  const bias = (vector: Floats) => {
    const rotated = vector.slice();
    rotate(rotated);
    return rotated;
  };
  return {
    config: model.config,
    async readBlock(block) {
      const { kind, norm, tensors } = await model.readBlock(block);
      const { readers, writers, biases } = methodOf(kind).stream;
      const rotated: Record<string, Floats> = { ...tensors };
      const change = (names: readonly string[], by: (tensor: Floats) => Floats) => {
        for (const name of names) if (rotated[name] !== undefined) rotated[name] = by(rotated[name]);
      };
      change(readers, (weight) => reader(weight, norm));
      change(writers, writer);
      change(biases, bias);
      return { kind, norm: ones(), tensors: rotated } as unknown as BlockTensors; // of the same names as before
    },
    async readEmbedding() {
      const embedding = (await model.readEmbedding()).slice();
      rotate(embedding);
      return embedding;
    },
    readFinalNorm: () => Promise.resolve(ones()),
    async readHead() {
      const head = await model.readHead();
      return head === null ? null : reader(head, await model.readFinalNorm());
    },
    async readHeadRotation() {
      if (!model.config.tieWordEmbeddings) return null;
      const norm = await model.readFinalNorm();
      const diagonal = new Float32Array(hiddenSize * hiddenSize);
      norm.forEach((value, i) => diagonal[i * hiddenSize + i] = value);
      rotate(diagonal); // diag(γ) · Q
      return writer(diagonal);
    },
  };
}

/** `[rows, columns]` → `[columns, rows]`. */
function transpose(matrix: Floats, rows: number): Floats {
  const columns = matrix.length / rows;
  const turned = new Float32Array(matrix.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) turned[column * rows + row] = matrix[row * columns + column]!;
  }
  return turned;
}
