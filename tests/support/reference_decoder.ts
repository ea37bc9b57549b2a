/**
 * The elastic model in plain loops and float64, read straight from an artefact's file: what the graphs are held against.
 *
 * A level is applied by masking: every chunk is computed, and the activations of those that the level drops are set to
 * zero. The graphs slice instead.
 */

import { join } from "node:path";
import type { Artefact } from "../../models/artefact.ts";
import type { AttentionPlan, GatedMlpPlan, Matrix } from "../../models/plan.ts";
import {
  downMatrix,
  embeddingMatrix,
  gateUpMatrix,
  headMatrix,
  headRotationMatrix,
  outputMatrix,
  qkvMatrix,
} from "../../models/plan.ts";
import { RangeFile } from "../../models/range_file.ts";
import { ropeFrequencies } from "../../models/rope.ts";

/** A dequantized matrix `[outFeatures][inFeatures]` with its bias. */
interface Dense {
  readonly rows: readonly Float64Array[];
  readonly bias: Float64Array | null;
}

export class ReferenceDecoder {
  readonly #artefact: Artefact;
  readonly #matrices = new Map<string, Dense>();
  readonly #vectors = new Map<string, Float64Array>();

  private constructor(artefact: Artefact) {
    this.#artefact = artefact;
  }

  static async open(artefact: Artefact): Promise<ReferenceDecoder> {
    const reference = new ReferenceDecoder(artefact);
    const { plan } = artefact;
    const { config } = plan;
    const { locate } = artefact;
    using file = await RangeFile.open(join(artefact.folder, "weights.safetensors"));
    const bytes = (name: string) => file.read(locate(name).offset, locate(name).length);
    const floats = async (name: string) => Float64Array.from(new Float32Array((await bytes(name)).buffer));
    const load = async (matrix: Matrix) => {
      const { name, outFeatures, inFeatures, bias } = matrix;
      const codes = await bytes(`${name}.codes`);
      const scales = new Float16Array((await bytes(`${name}.scales`)).buffer);
      const blocks = Math.ceil(inFeatures / artefact.blockSize);
      const rowBytes = blocks * artefact.blockSize / 2;
      reference.#matrices.set(name, {
        rows: Array.from({ length: outFeatures }, (_, row) =>
          Float64Array.from({ length: inFeatures }, (_, column) => {
            const byte = codes[row * rowBytes + (column >> 1)]!;
            const code = column % 2 === 0 ? byte & 15 : byte >> 4;
            return (code - 8) * scales[row * blocks + Math.floor(column / artefact.blockSize)]!;
          })),
        bias: bias ? await floats(`${name}.bias`) : null,
      });
    };
    await load(embeddingMatrix(config));
    await load(headMatrix(config));
    if (plan.headRotation) await load(headRotationMatrix(config));
    reference.#vectors.set("final_norm", await floats("final_norm"));
    for (const block of plan.layers.flat()) {
      reference.#vectors.set(`${block.name}.norm`, await floats(`${block.name}.norm`));
      for (let chunk = 0; chunk < block.chunks.length; chunk++) {
        for (
          const matrix of block.kind === "attention"
            ? [qkvMatrix(config, block, chunk), outputMatrix(config, block, chunk)]
            : [gateUpMatrix(config, block, chunk), downMatrix(config, block, chunk)]
        ) await load(matrix);
      }
    }
    return reference;
  }

  /** Logits of every token of one sequence: `[T][V]`. */
  logits(tokens: readonly number[], level: number): Float64Array[] {
    const { plan } = this.#artefact;
    const embedding = this.#matrices.get("embedding")!;
    // The graph reads the embedding's rows as float16.
    let hidden = tokens.map((token) => embedding.rows[token]!.map((value) => Math.f16round(value)));
    for (const block of plan.layers.flat()) {
      const normed = hidden.map((row) => this.#norm(row, `${block.name}.norm`));
      const change = block.kind === "attention"
        ? this.#attention(normed, block, level)
        : this.#mlp(normed, block, level);
      hidden = hidden.map((row, t) => row.map((value, i) => value + change[t]![i]!));
    }
    return hidden.map((row) => {
      let normed = this.#norm(row, "final_norm");
      if (plan.headRotation) normed = this.#product(normed, "head_rotation");
      return this.#product(normed, headMatrix(plan.config).name);
    });
  }

  #attention(normed: Float64Array[], block: AttentionPlan, level: number): Float64Array[] {
    const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K, hiddenSize, rope } = this.#artefact.plan.config;
    const index = this.#artefact.plan.layers.flat().indexOf(block);
    const stored = this.#artefact.manifest.layers.flat()[index]!;
    if (stored.kind !== "attention") throw new TypeError(`Cannot find the pairs of ${block.name}`);
    const frequencies = ropeFrequencies(rope, K);
    const heads = normed.map((row, position) => {
      const packed = Array.from({ length: H + 2 * G }, () => new Float64Array(K));
      block.chunks.forEach((chunk, c) => {
        const values = this.#product(row, `${block.name}.qkv.${c}`);
        const width = chunk.end - chunk.start;
        const kept = level <= chunk.level ? 1 : 0;
        values.forEach((value, at) => packed[Math.floor(at / width)]![chunk.start + at % width] = kept * value);
      });
      for (let head = 0; head < H + G; head++) {
        const group = head < H ? Math.floor(head / (H / G)) : head - H;
        for (let pair = 0; pair < K / 2; pair++) {
          const angle = Math.fround(position * frequencies[stored.pairs[group]![pair]!]!);
          const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
          const [a, b] = [packed[head]![2 * pair]!, packed[head]![2 * pair + 1]!];
          packed[head]![2 * pair] = a * cos - b * sin;
          packed[head]![2 * pair + 1] = b * cos + a * sin;
        }
      }
      return packed;
    });
    return heads.map((packed, t) => {
      const attended = Array.from({ length: H }, (_, head) => {
        const group = Math.floor(head / (H / G));
        const scores = heads.slice(0, t + 1).map((other) => dot(packed[head]!, other[H + group]!) / Math.sqrt(K));
        const max = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - max));
        const sum = weights.reduce((a, b) => a + b);
        return Float64Array.from(
          { length: K },
          (_, i) => weights.reduce((total, weight, u) => total + weight / sum * heads[u]![H + G + group]![i]!, 0),
        );
      });
      return this.#sum(
        block.chunks.map(({ start, end }, c) => {
          const width = end - start;
          const piece = Float64Array.from(
            { length: H * width },
            (_, at) => attended[Math.floor(at / width)]![start + at % width]!,
          );
          return this.#product(piece, `${block.name}.output.${c}`);
        }),
        hiddenSize,
      );
    });
  }

  #mlp(normed: Float64Array[], block: GatedMlpPlan, level: number): Float64Array[] {
    return normed.map((row) =>
      this.#sum(
        block.chunks.map((chunk, c) => {
          const width = chunk.end - chunk.start;
          const gateUp = this.#product(row, `${block.name}.gate_up.${c}`);
          const kept = level <= chunk.level ? 1 : 0;
          const hidden = Float64Array.from(
            { length: width },
            (_, i) => kept * gateUp[i]! / (1 + Math.exp(-gateUp[i]!)) * gateUp[width + i]!,
          );
          return this.#product(hidden, `${block.name}.down.${c}`);
        }),
        row.length,
      )
    );
  }

  #norm(row: Float64Array, name: string): Float64Array {
    const scale = 1 / Math.sqrt(dot(row, row) / row.length + this.#artefact.plan.config.rmsNormEps);
    const weight = this.#vectors.get(name)!;
    return row.map((value, i) => value * scale * weight[i]!);
  }

  #product(x: Float64Array, name: string): Float64Array {
    const { rows, bias } = this.#matrices.get(name)!;
    return Float64Array.from(rows, (row, i) => dot(row, x) + (bias?.[i] ?? 0));
  }

  #sum(parts: Float64Array[], length: number): Float64Array {
    return Float64Array.from({ length }, (_, i) => parts.reduce((total, part) => total + part[i]!, 0));
  }
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
