/**
 * What a model is made of, as data. A family (`families/`) makes a description from a checkpoint's configuration; the
 * graph builder and the compression read it and never ask for the architecture's name.
 *
 * Letters in shapes: D hidden, F intermediate, H query heads, G key/value heads, K head dim, V vocabulary; in a Mamba
 * block H heads of P channels each, G groups of N states each, and k taps of the convolution. Every linear layer stores
 * its weight `[outFeatures, inFeatures]` row-major, as Hugging Face checkpoints do.
 */

/** Names of a linear layer's tensors in the checkpoint. */
export interface LinearNames {
  /** `[outFeatures, inFeatures]` */
  readonly weight: string;
  /** `[outFeatures]`; absent where the layer adds none. */
  readonly bias?: string;
}

/** `x + output(attention(query(n), key(n), value(n)))` with `n = norm(x)`. */
export interface AttentionBlock {
  readonly kind: "attention";
  /** Name of the RMSNorm weight `[D]`. */
  readonly norm: string;
  /** `[H·K, D]`; row `h·K + i` is component `i` of head `h`. RoPE turns components `i` and `i + K/2` together. */
  readonly query: LinearNames;
  /** `[G·K, D]`, rows as in `query`. Query head `h` reads key/value head `floor(h / (H/G))`. */
  readonly key: LinearNames;
  /** `[G·K, D]` */
  readonly value: LinearNames;
  /** `[D, H·K]` */
  readonly output: LinearNames;
}

/** `x + down(silu(gate(n)) ⊙ up(n))` with `n = norm(x)`. */
export interface GatedMlpBlock {
  readonly kind: "gatedMlp";
  /** Name of the RMSNorm weight `[D]`. */
  readonly norm: string;
  /** `[F, D]` */
  readonly gate: LinearNames;
  /** `[F, D]` */
  readonly up: LinearNames;
  /** `[D, F]` */
  readonly down: LinearNames;
}

/** `x + down(relu(up(n))²)` with `n = norm(x)`. */
export interface MlpBlock {
  readonly kind: "mlp";
  /** Name of the RMSNorm weight `[D]`. */
  readonly norm: string;
  /** `[F, D]` */
  readonly up: LinearNames;
  /** `[D, F]` */
  readonly down: LinearNames;
}

/**
 * A Mamba-2 mixer. With `n = norm(x)` and `z, u, dt` the parts of `input(n)`, u the channels x, B and C:
 * `x + output(gatedNorm(ssd(silu(conv(u)), softplus(dt + dtBias)) ⊙ silu(z)))`.
 *
 * Channel `p` of head `h` and state `m` of its group `floor(h / (H/G))` evolve by
 * `s ← exp(Δ·A)·s + Δ·B[m]·x[h, p]`, `y[h, p] = Σ_m C[m]·s + D·x[h, p]`, with `A = −exp(aLog[h])`.
 *
 * @see Transformers are SSMs, https://arxiv.org/abs/2405.21060, section 7
 */
export interface MambaBlock {
  readonly kind: "mamba";
  /** Name of the RMSNorm weight `[D]`. */
  readonly norm: string;
  /** `[2·H·P + 2·G·N + H, D]`: rows of z, x (head by head), B, C (group by group) and dt. */
  readonly input: LinearNames;
  /** `[H·P + 2·G·N, 1, k]`, oldest tap first: channels of x, B and C; a bias where the model has one. */
  readonly convolution: LinearNames;
  /** `[H]` */
  readonly aLog: string;
  /** D: one number per head `[H]`, or per channel `[H·P]`. */
  readonly skip: string;
  readonly skipPerChannel: boolean;
  /** `[H]` */
  readonly dtBias: string;
  /** Weight of the gated RMSNorm `[H·P]`. */
  readonly gatedNorm: string;
  /** `[D, H·P]` */
  readonly output: LinearNames;
}

/** One residual block `x + mixer(norm(x))`. */
export type Block = AttentionBlock | GatedMlpBlock | MlpBlock | MambaBlock;

/** Positions are divided by `factor` before RoPE. */
export interface LinearRopeScaling {
  readonly kind: "linear";
  readonly factor: number;
}

/**
 * The frequency bands of Llama 3.1: wavelengths above `originalMaxPositionEmbeddings / lowFreqFactor` are stretched by
 * `factor`, those below `originalMaxPositionEmbeddings / highFreqFactor` stay, those between are interpolated.
 */
export interface Llama3RopeScaling {
  readonly kind: "llama3";
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  /** In tokens. */
  readonly originalMaxPositionEmbeddings: number;
}

/** Rotary position embedding: pair `i` of R/2 turns by `position · theta^(-2i/R)`, before scaling. */
export interface Rope {
  readonly theta: number;
  /**
   * R: RoPE turns the first so many components of a head, `i` with `i + R/2`, and leaves the others. K, K/2 or 0 (no
   * position embedding); K where it is absent.
   */
  readonly rotaryDim?: number;
  /** `null`: plain. */
  readonly scaling: null | LinearRopeScaling | Llama3RopeScaling;
}

/** The numbers of a model's Mamba-2 mixers, all of one shape. */
export interface MambaConfig {
  /** H */
  readonly numHeads: number;
  /** P */
  readonly headDim: number;
  /** G; divides H. Heads of a group share B and C, and the gated RMSNorm takes its mean over them. */
  readonly numGroups: number;
  /** N */
  readonly stateSize: number;
  /** k */
  readonly convKernel: number;
  /** Tokens that a chunk of the scan had in training; the result does not depend on it. */
  readonly chunkSize: number;
  /** Least and greatest Δ; null where there is no upper limit. */
  readonly timeStepLimit: readonly [number, number | null];
}

/** The numbers of a model, under Hugging Face's names in camelCase. Those of a kind of block it lacks are 0. */
export interface ModelConfig {
  /** What people and recipes call it, such as "llama": its file in `families/`. Plans and graphs do not depend on it. */
  readonly family: string;
  /** D */
  readonly hiddenSize: number;
  /** F */
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  /** H */
  readonly numAttentionHeads: number;
  /** G; divides H. */
  readonly numKeyValueHeads: number;
  /** K; even. H·K need not be D. */
  readonly headDim: number;
  /** Absent in a model without Mamba blocks. */
  readonly mamba?: MambaConfig;
  /** V; rows of the embedding, which can be more than the tokenizer knows. */
  readonly vocabSize: number;
  readonly rmsNormEps: number;
  /** Longest sequence the model was made for, in tokens. */
  readonly maxPositionEmbeddings: number;
  readonly rope: Rope;
  readonly tieWordEmbeddings: boolean;
  readonly bosTokenId: number | null;
  /** Every id that ends a generation; without repeats, possibly empty. */
  readonly eosTokenIds: readonly number[];
}

/** R of a model: the components of a head that RoPE turns. */
export function rotaryDimOf({ rope, headDim }: Pick<ModelConfig, "rope" | "headDim">): number {
  return rope.rotaryDim ?? headDim;
}

/** The Mamba sizes of a model that has such blocks. @throws {RangeError} If it has none. */
export function mambaOf({ mamba, family }: Pick<ModelConfig, "mamba" | "family">): MambaConfig {
  if (mamba === undefined) throw new RangeError(`Cannot build a Mamba block: the ${family} configuration has no sizes`);
  return mamba;
}

/** A model as data: its numbers, its blocks in order, and the tensor names they read. */
export interface ModelDescription {
  readonly config: ModelConfig;
  /** `[V, D]` */
  readonly embedding: string;
  /** A layer is a list of residual blocks, run one after the other. */
  readonly layers: readonly (readonly Block[])[];
  /** Name of the last RMSNorm's weight `[D]`. */
  readonly finalNorm: string;
  /** `[V, D]`; `null` where the embedding serves as head too. */
  readonly head: string | null;
  /** Whether quantization loses more with a rotated residual stream than without; not where it is absent. */
  readonly rotationHurts?: boolean;
}

/** Lists every tensor that a description reads, with its shape, in the order in which the model runs. */
export function expectedTensors(description: ModelDescription): Map<string, readonly number[]> {
  const { hiddenSize, intermediateSize, headDim, numAttentionHeads, numKeyValueHeads, vocabSize } = description.config;
  const shapes = new Map<string, readonly number[]>();
  const linear = (names: LinearNames, outFeatures: number, inFeatures: number) => {
    shapes.set(names.weight, [outFeatures, inFeatures]);
    if (names.bias !== undefined) shapes.set(names.bias, [outFeatures]);
  };

  shapes.set(description.embedding, [vocabSize, hiddenSize]);
  for (const block of description.layers.flat()) {
    shapes.set(block.norm, [hiddenSize]);
    switch (block.kind) {
      case "attention":
        linear(block.query, numAttentionHeads * headDim, hiddenSize);
        linear(block.key, numKeyValueHeads * headDim, hiddenSize);
        linear(block.value, numKeyValueHeads * headDim, hiddenSize);
        linear(block.output, hiddenSize, numAttentionHeads * headDim);
        break;
      case "gatedMlp":
        linear(block.gate, intermediateSize, hiddenSize);
        linear(block.up, intermediateSize, hiddenSize);
        linear(block.down, hiddenSize, intermediateSize);
        break;
      case "mlp":
        linear(block.up, intermediateSize, hiddenSize);
        linear(block.down, hiddenSize, intermediateSize);
        break;
      case "mamba": {
        const { numHeads, headDim, numGroups, stateSize, convKernel } = mambaOf(description.config);
        const inner = numHeads * headDim;
        const channels = inner + 2 * numGroups * stateSize;
        linear(block.input, inner + channels + numHeads, hiddenSize);
        shapes.set(block.convolution.weight, [channels, 1, convKernel]);
        if (block.convolution.bias !== undefined) shapes.set(block.convolution.bias, [channels]);
        shapes.set(block.dtBias, [numHeads]);
        shapes.set(block.aLog, [numHeads]);
        shapes.set(block.skip, [block.skipPerChannel ? inner : numHeads]);
        shapes.set(block.gatedNorm, [inner]);
        linear(block.output, hiddenSize, inner);
        break;
      }
      default:
        block satisfies never;
    }
  }
  shapes.set(description.finalNorm, [hiddenSize]);
  if (description.head !== null) shapes.set(description.head, [vocabSize, hiddenSize]);
  return shapes;
}
