/**
 * What a model is made of, as data. A family (`families/`) makes a description from a checkpoint's configuration; the
 * graph builder and the compression read it and never ask for the architecture's name.
 *
 * Letters in shapes: D hidden, F intermediate, H query heads, G key/value heads, K head dim, V vocabulary. Every linear
 * layer stores its weight `[outFeatures, inFeatures]` row-major, as Hugging Face checkpoints do.
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

/** One residual block `x + mixer(norm(x))`. */
export type Block = AttentionBlock | GatedMlpBlock;

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

/** Rotary position embedding: pair `i` of K/2 turns by `position · theta^(-2i/K)`, before scaling. */
export interface Rope {
  readonly theta: number;
  /** `null`: plain. */
  readonly scaling: null | LinearRopeScaling | Llama3RopeScaling;
}

/** The numbers of a model, under Hugging Face's names in camelCase. */
export interface ModelConfig {
  readonly family: "llama" | "qwen2";
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
      default:
        block satisfies never;
    }
  }
  shapes.set(description.finalNorm, [hiddenSize]);
  if (description.head !== null) shapes.set(description.head, [vocabSize, hiddenSize]);
  return shapes;
}
