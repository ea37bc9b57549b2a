import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { finishArtefact, type ManifestDraft, openWeightsFile } from "./artefact_writer.ts";
import type { ModelConfig } from "./description.ts";
import type { Manifest } from "./manifest.ts";
import { blockMatrices, outerMatrices } from "./plan.ts";
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
}

/**
 * Writes an artefact of random weights with every layer cut alike: a model of any shape, for benches and tests.
 *
 * Scales are such that activations neither vanish nor explode over the layers.
 */
export async function writeRandomArtefact(folder: string, options: RandomArtefactOptions): Promise<Manifest> {
  const { config, blockSize, seed, pruningRates = PRUNING_RATES, tokenizer = null } = options;
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
  const qwen = config.family === "qwen2";
  const draft: ManifestDraft = {
    name: options.name ?? "random",
    config: { ...config, eosTokenIds: [...config.eosTokenIds] },
    quantization: { bits: 4, blockSize },
    rotatedResidual: false,
    levels: pruningRates.map((pruningRate) => ({ pruningRate, perplexity: null })),
    layers: Array.from({ length: config.numHiddenLayers }, () => [
      {
        kind: "attention",
        widths: widths(config.headDim, quanta.head),
        queryKeyBias: qwen,
        outputBias: qwen,
        pairs: Array.from({ length: config.numKeyValueHeads }, () => shuffled(config.headDim / 2)),
        pairScores: [],
        valueEnergies: [],
      },
      {
        kind: "gatedMlp",
        widths: widths(config.intermediateSize, quanta.mlp),
        channels: shuffled(config.intermediateSize),
        channelScores: [],
      },
    ]),
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
      const around = name.endsWith("norm") ? 1 : 0;
      await writer.write(name, Float32Array.from({ length }, () => around + 0.2 * (uniformFloat64(random) - 0.5)));
    }
  }
  await writer.finish();
  return await finishArtefact(folder, draft, tokenizer);
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
