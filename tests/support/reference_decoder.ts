/**
 * The elastic model in plain loops and float64, read straight from an artefact's file: what the graphs are held against.
 *
 * A level is applied by masking: every chunk is computed, and the activations of those that the level drops are set to
 * zero. The graphs slice instead.
 */

import { join } from "node:path";
import type { Artefact } from "../../models/artefact.ts";
import { mambaOf, rotaryDimOf } from "../../models/description.ts";
import type { AttentionPlan, BlockPlan, GatedMlpPlan, MambaPlan, Matrix, MlpPlan } from "../../models/plan.ts";
import { blockMatrices, embeddingMatrix, headMatrix, headRotationMatrix, modelVectors } from "../../models/plan.ts";
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
    for (const { name } of modelVectors(plan)) reference.#vectors.set(name, await floats(name));
    for (const block of plan.layers.flat()) {
      for (const { matrix } of blockMatrices(config, block)) await load(matrix);
    }
    return reference;
  }

  /**
   * Logits of every token of one sequence: `[T][V]`.
   *
   * @param levels One for all tokens, or that of each: what a wide token leaves to narrow ones is masked by theirs. Mamba
   * blocks take the first token's.
   */
  logits(tokens: readonly number[], levels: number | readonly number[]): Float64Array[] {
    const levelOf = typeof levels === "number" ? tokens.map(() => levels) : levels;
    const { plan } = this.#artefact;
    const embedding = this.#matrices.get("embedding")!;
    // The graph reads the embedding's rows as float16.
    let hidden = tokens.map((token) => embedding.rows[token]!.map((value) => Math.f16round(value)));
    for (const block of plan.layers.flat()) {
      const normed = hidden.map((row) => this.#norm(row, `${block.name}.norm`));
      const change = this.#mixer(normed, block, levelOf);
      hidden = hidden.map((row, t) => row.map((value, i) => value + change[t]![i]!));
    }
    return hidden.map((row) => {
      let normed = this.#norm(row, "final_norm");
      if (plan.headRotation) normed = this.#product(normed, "head_rotation");
      return this.#product(normed, headMatrix(plan.config).name);
    });
  }

  #mixer(normed: Float64Array[], block: BlockPlan, levels: readonly number[]): Float64Array[] {
    switch (block.kind) {
      case "attention":
        return this.#attention(normed, block, levels);
      case "gatedMlp":
      case "mlp":
        return this.#mlp(normed, block, levels);
      case "mamba":
        return this.#mamba(normed, block, levels[0]!);
      default:
        return block satisfies never;
    }
  }

  #attention(normed: Float64Array[], block: AttentionPlan, levels: readonly number[]): Float64Array[] {
    const { numAttentionHeads: H, numKeyValueHeads: G, headDim: K, hiddenSize, rope } = this.#artefact.plan.config;
    const index = this.#artefact.plan.layers.flat().indexOf(block);
    const stored = this.#artefact.manifest.layers.flat()[index]!;
    if (stored.kind !== "attention") throw new TypeError(`Cannot find the pairs of ${block.name}`);
    const rotaryDim = rotaryDimOf(this.#artefact.plan.config);
    const frequencies = ropeFrequencies(rope, rotaryDim);
    const heads = normed.map((row, position) => {
      const packed = Array.from({ length: H + 2 * G }, () => new Float64Array(K));
      block.chunks.forEach((chunk, c) => {
        const values = this.#product(row, `${block.name}.qkv.${c}`);
        const width = chunk.end - chunk.start;
        const kept = levels[position]! <= chunk.level ? 1 : 0;
        values.forEach((value, at) => packed[Math.floor(at / width)]![chunk.start + at % width] = kept * value);
      });
      for (let head = 0; head < H + G; head++) {
        const group = head < H ? Math.floor(head / (H / G)) : head - H;
        for (let pair = 0; pair < rotaryDim / 2; pair++) {
          const angle = Math.fround(position * frequencies[stored.pairs[group]![pair]!]!);
          const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
          // Behind each pair of a head that is half turned stand two components that are not.
          const place = pair * 2 * K / rotaryDim;
          const [a, b] = [packed[head]![place]!, packed[head]![place + 1]!];
          packed[head]![place] = a * cos - b * sin;
          packed[head]![place + 1] = b * cos + a * sin;
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
        block.chunks.map(({ start, end, level }, c) => {
          const width = end - start;
          const kept = levels[t]! <= level ? 1 : 0;
          const piece = Float64Array.from(
            { length: H * width },
            (_, at) => kept * attended[Math.floor(at / width)]![start + at % width]!,
          );
          return this.#product(piece, `${block.name}.output.${c}`);
        }),
        hiddenSize,
      );
    });
  }

  #mlp(normed: Float64Array[], block: GatedMlpPlan | MlpPlan, levels: readonly number[]): Float64Array[] {
    return normed.map((row, t) =>
      this.#sum(
        block.chunks.map((chunk, c) => {
          const width = chunk.end - chunk.start;
          const kept = levels[t]! <= chunk.level ? 1 : 0;
          const up = this.#product(row, `${block.name}.${block.kind === "mlp" ? "up" : "gate_up"}.${c}`);
          const hidden = block.kind === "mlp"
            ? up.map((value) => kept * Math.max(value, 0) ** 2)
            : up.slice(0, width).map((gate, i) => kept * silu(gate) * up[width + i]!);
          return this.#product(hidden, `${block.name}.down.${c}`);
        }),
        row.length,
      )
    );
  }

  /** Token by token, all channels and states of the whole model; those that the level drops are zero throughout. */
  #mamba(normed: Float64Array[], block: MambaPlan, level: number): Float64Array[] {
    const { config } = this.#artefact.plan;
    const { numHeads: H, headDim: P, numGroups: G, stateSize: N, convKernel: k, timeStepLimit } = mambaOf(config);
    const vector = (part: string) => this.#vectors.get(`${block.name}.${part}`)!;
    const keepsChannel = (place: number) => place % P < block.widths[level]!;
    const keepsState = (place: number) => place % N < block.stateWidths[level]!;
    const state = new Float64Array(H * P * N);
    const past: { x: Float64Array; bc: Float64Array }[] = [];
    return normed.map((row) => {
      const zx = new Float64Array(2 * H * P);
      const bc = new Float64Array(2 * G * N);
      let dt = new Float64Array(H);
      block.inputChunks.forEach(({ channels, states }, c) => {
        const values = this.#product(row, `${block.name}.input.${c}`);
        let at = 0;
        for (let head = 0; head < 2 * H; head++) {
          for (let p = channels.start; p < channels.end; p++) zx[head * P + p] = values[at++]!;
        }
        for (let group = 0; group < 2 * G; group++) {
          for (let m = states.start; m < states.end; m++) bc[group * N + m] = values[at++]!;
        }
        if (c === 0) dt = values.slice(at, at + H);
      });
      past.push({ x: zx.subarray(H * P), bc });
      const convolve = (of: "x" | "bc", part: string, keeps: (place: number) => boolean) =>
        past.at(-1)![of].map((_, channel) => {
          if (!keeps(channel)) return 0;
          let sum = block.convBias ? vector(`${part}_bias`)[channel]! : 0;
          for (let tap = 0; tap < k; tap++) {
            sum += vector(part)[channel * k + tap]! * (past.at(tap - k)?.[of][channel] ?? 0);
          }
          return silu(sum);
        });
      const x = convolve("x", "conv_x", keepsChannel);
      const convolved = convolve("bc", "conv_bc", keepsState);
      const gated = Float64Array.from({ length: H * P }, (_, channel) => {
        const head = Math.floor(channel / P);
        const group = Math.floor(head / (H / G));
        const softplus = Math.log1p(Math.exp(dt[head]! + vector("dt_bias")[head]!));
        const delta = Math.min(Math.max(softplus, timeStepLimit[0]), timeStepLimit[1] ?? Infinity);
        const decay = Math.exp(-Math.exp(vector("a_log")[head]!) * delta);
        let y = vector("skip")[block.skipPerChannel ? channel : head]! * x[channel]!;
        for (let m = 0; m < N; m++) {
          const at = channel * N + m;
          state[at] = decay * state[at]! + delta * convolved[group * N + m]! * x[channel]!;
          y += convolved[(G + group) * N + m]! * state[at]!;
        }
        return keepsChannel(channel) ? y * silu(zx[channel]!) : 0;
      });
      const groupWidth = H / G * P;
      const normedChannels = gated.map((value, channel) => {
        const start = Math.floor(channel / groupWidth) * groupWidth;
        const group = gated.subarray(start, start + groupWidth);
        return value / Math.sqrt(dot(group, group) / groupWidth + config.rmsNormEps) * vector("gated_norm")[channel]!;
      });
      return this.#sum(
        block.chunks.map(({ start, end }, c) => {
          const width = end - start;
          const piece = Float64Array.from(
            { length: H * width },
            (_, at) => normedChannels[Math.floor(at / width) * P + start + at % width]!,
          );
          return this.#product(piece, `${block.name}.output.${c}`);
        }),
        config.hiddenSize,
      );
    });
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

function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
