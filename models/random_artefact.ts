import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { finishArtefact, type ManifestDraft, openWeightsFile } from "./artefact_writer.ts";
import { mambaOf, type ModelConfig, rotaryDimOf } from "./description.ts";
import type { Manifest, ManifestBlock } from "./manifest.ts";
import { blockMatrices, type BlockPlan, outerMatrices } from "./plan.ts";
import { planOf } from "./artefact.ts";
import { storedTensors } from "./stored_tensors.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";
import { keptWidth, PRUNING_RATES, quantaFor } from "./widths.ts";

export interface RandomArtefactOptions {
  readonly config: ModelConfig;
  readonly blockSize: 32 | 64 | 128;
  readonly seed: number;
  readonly name?: string;
  /** `[0]` makes a plain, not elastic, model. */
  readonly pruningRates?: readonly number[];
  readonly tokenizer?: TokenizerFiles;
  /** Whether attention has biases on queries, keys and the output, as a Qwen2's has once those of the values are moved. */
  readonly attentionBiases?: boolean;
  /** The kinds of block of every layer; by default attention and a gated MLP, or a Mamba mixer where there is no MLP. */
  readonly layers?: readonly (readonly BlockPlan["kind"][])[];
}

/**
 * Writes an artefact of random weights with every layer cut alike: a model of any shape, for benches and tests.
 *
 * Scales are such that activations neither vanish nor explode over the layers.
 */
export async function writeRandomArtefact(folder: string, options: RandomArtefactOptions): Promise<Manifest> {
  const { config, blockSize, seed, pruningRates = PRUNING_RATES, tokenizer = null, attentionBiases = false } = options;
  const usual: readonly BlockPlan["kind"][] = config.intermediateSize === 0 ? ["mamba"] : ["attention", "gatedMlp"];
  const layers = options.layers ?? Array.from({ length: config.numHiddenLayers }, () => usual);
  const random = xoroshiro128plus(seed);
  const quanta = quantaFor({ ...config, blockSize });
  const widths = (full: number, quantum: number) => pruningRates.map((rate) => keptWidth(full, rate, quantum));
  const shuffled = (length: number) => {
    const order = Array.from({ length }, (_, index) => index);
    for (let i = length - 1; i > 0; i--) {
      const other = Math.floor(uniformFloat64(random) * (i + 1));
      [order[i], order[other]] = [order[other]!, order[i]!];
    }
    return order;
  };
  const shuffledRows = (rows: number, length: number, first = 0) =>
    Array.from({ length: rows }, () => shuffled(length).map((index) => first + index));
  const block = (kind: BlockPlan["kind"]): ManifestBlock => {
    switch (kind) {
      case "attention": {
        const rotaryDim = rotaryDimOf(config);
        const { headDim, numKeyValueHeads } = config;
        return {
          kind,
          widths: widths(headDim, quanta.head),
          queryKeyBias: attentionBiases,
          outputBias: attentionBiases,
          pairs: shuffledRows(numKeyValueHeads, rotaryDim / 2),
          pairScores: [],
          ...(rotaryDim < headDim && { passed: shuffledRows(numKeyValueHeads, headDim - rotaryDim, rotaryDim) }),
          valueEnergies: [],
        };
      }
      case "gatedMlp":
      case "mlp":
        return {
          kind,
          widths: widths(config.intermediateSize, quanta.mlp),
          channels: shuffled(config.intermediateSize),
          channelScores: [],
        };
      case "mamba": {
        const { numHeads, headDim, numGroups, stateSize } = mambaOf(config);
        return {
          kind,
          widths: widths(headDim, quanta.mambaHead),
          stateWidths: widths(stateSize, quanta.mambaState),
          convBias: true,
          skipPerChannel: false,
          channels: shuffledRows(numHeads, headDim),
          channelScores: [],
          states: shuffledRows(numGroups, stateSize),
          stateScores: [],
        };
      }
      default:
        return kind satisfies never;
    }
  };
  const draft: ManifestDraft = {
    name: options.name ?? "random",
    config: { ...config, eosTokenIds: [...config.eosTokenIds] },
    quantization: { bits: 4, blockSize },
    rotatedResidual: false,
    levels: pruningRates.map((pruningRate) => ({ pruningRate, perplexity: null })),
    layers: layers.map((kinds) => kinds.map(block)),
    blockInfluence: [],
    provenance: { weights: "random", seed },
  };
  const plan = planOf({ ...draft, format: "espalier", version: 1, files: {} });
  const inFeatures = new Map(
    [...outerMatrices(plan), ...plan.layers.flat().flatMap((b) => blockMatrices(config, b).map(({ matrix }) => matrix))]
      .map((matrix) => [matrix.name, matrix.inFeatures]),
  );
  using writer = await openWeightsFile(folder, draft);
  for (const { name, dtype, shape } of storedTensors(plan, blockSize)) {
    const length = shape.reduce((product, size) => product * size, 1);
    if (dtype === "U8") {
      await writer.write(name, randomCodes(random, shape, inFeatures.get(name.replace(/\.codes$/, ""))!));
    } else if (dtype === "F16") {
      // Codes are uniform in -8..7, about 4.6 in the root mean square.
      const scale = 0.7 / (4.6 * Math.sqrt(inFeatures.get(name.replace(/\.scales$/, ""))!));
      await writer.write(name, Float16Array.from({ length }, () => scale * (0.75 + uniformFloat64(random) / 2)));
    } else {
      const { around, spread } = vectorRange(name, config);
      await writer.write(name, Float32Array.from({ length }, () => around + spread * (uniformFloat64(random) - 0.5)));
    }
  }
  await writer.finish();
  return await finishArtefact(folder, draft, tokenizer);
}

/** Values of a vector, uniform around a middle. Mamba's are in the range in which its training starts them. */
function vectorRange(name: string, { mamba }: ModelConfig): { around: number; spread: number } {
  const taps = mamba === undefined ? 1 : mamba.convKernel;
  if (name.endsWith("norm") || name.endsWith(".skip")) return { around: 1, spread: 0.2 };
  if (name.endsWith(".conv_x") || name.endsWith(".conv_bc")) return { around: 0, spread: 2 / Math.sqrt(taps) };
  if (name.endsWith(".a_log")) return { around: 1.4, spread: 2.8 }; // A from −1 to −16
  if (name.endsWith(".dt_bias")) return { around: -4.6, spread: 4.6 }; // Δ from 0.001 to 0.1
  return { around: 0, spread: 0.2 };
}

type Random = ReturnType<typeof xoroshiro128plus>;

/** Codes of a matrix; those that fill its last block up stand for zero. */
function randomCodes(
  random: Random,
  [rows, blocks, bytes]: readonly number[],
  inFeatures: number,
): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(rows! * blocks! * bytes! / 4));
  for (let i = 0; i < words.length; i++) words[i] = random.next();
  const codes = new Uint8Array(words.buffer, 0, rows! * blocks! * bytes!);
  const rowBytes = blocks! * bytes!;
  const used = inFeatures / 2;
  if (used < rowBytes) {
    for (let row = 0; row < rows!; row++) codes.fill(0x88, row * rowBytes + used, (row + 1) * rowBytes);
  }
  return codes;
}
