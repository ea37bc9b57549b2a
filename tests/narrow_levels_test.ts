import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, notDeepEqual, ok, rejects } from "node:assert/strict";
import { blockWidths } from "../compression/block_widths.ts";
import type { OrderOptions } from "../compression/blocks/method.ts";
import { methodOf } from "../compression/blocks/mod.ts";
import { calibrationData } from "../compression/calibration.ts";
import { compress } from "../compression/compress.ts";
import { hadamardRotation } from "../compression/hadamard.ts";
import type { Job } from "../compression/job.ts";
import { narrowWeights } from "../compression/narrow_weights.ts";
import { orderOf } from "../compression/orders/mod.ts";
import { prepareModel, rotateResidual } from "../compression/prepared_model.ts";
import { randomNumbers } from "../compression/random_numbers.ts";
import { parseRecipe } from "../compression/recipe.ts";
import type { Report } from "../compression/report.ts";
import { AdapterTraining } from "../compression/recovery/adapter_training.ts";
import { adapterParameters, type Adapters, mergeAdapters } from "../compression/recovery/adapters.ts";
import { maskedLogits, type MaskedModel, sortedWeights } from "../compression/recovery/divergence.ts";
import { drawnLevel, recover, type RecoveryState } from "../compression/recovery/recover.ts";
import { SortedModel } from "../compression/sorted_model.ts";
import { constantWeights, namedWeights, packedParameters } from "../compression/training/checkpoint_weights.ts";
import { sequenceLogits } from "../compression/training/loss.ts";
import { ParameterLayout, trainedParameters } from "../compression/training/parameters.ts";
import { randomFor } from "../compression/training/random.ts";
import { tinyLlama, type TinyModel } from "../compression/training/testing/tiny_models.ts";
import { trainedTensors, writeTrainedCheckpoint } from "../compression/training/trained_checkpoint.ts";
import { Trainer } from "../compression/training/trainer.ts";
import { fillWithRandomWindows, joinStories } from "../compression/training/windows.ts";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { BlockSessions } from "../models/block_sessions.ts";
import { densePlan, packOriginal, readBlock, specOf } from "../models/block_tensors.ts";
import { type Checkpoint, openCheckpoint } from "../models/checkpoint.ts";
import { openDecoder } from "../models/decoder.ts";
import { DenseHead } from "../models/dense_block.ts";
import { denseLogits, embed } from "../models/dense_model.ts";
import type { ModelDescription } from "../models/description.ts";
import type { Floats } from "../models/floats.ts";
import { originalPairs, takeColumns, takeRows } from "../models/layout.ts";
import { type ModelPlan, planModel } from "../models/plan.ts";
import { PRUNING_RATES } from "../models/widths.ts";
import { ElementType, GraphBuilder, openRuntime } from "../onnx/mod.ts";
import { TINY_TOKENIZER } from "./support/tiny_checkpoint.ts";
import { TINY_FAMILIES } from "./support/tiny_families.ts";

const runtime = openRuntime();
const algebra = openLinearAlgebra();
const RANK = 3;
const TOKENS = Int32Array.from({ length: 12 }, (_, i) => (i * i * 7 + 3 * i) % 90);
const STORIES = Array.from(
  { length: 300 },
  (_, story) => [0, ...Array.from({ length: 10 }, (_, i) => 1 + (3 * story + i) % 39)],
);
const COUNTING = Int32Array.from(STORIES.flat());
const TEXT = Int32Array.from({ length: 3000 }, (_, i) => (i * 31 + Math.floor(i / 7) * 17) % 95);

for (const [family, writeCheckpoint] of Object.entries(TINY_FAMILIES)) {
  describe(`Recovery of a tiny ${family}`, () => {
    let folder: string;
    let checkpoint: Checkpoint;
    let model: MaskedModel;
    let weights: Map<string, Floats>;
    let adapters: Adapters;

    beforeAll(async () => {
      folder = await Deno.makeTempDir();
      await writeCheckpoint(`${folder}/checkpoint`, 11);
      checkpoint = await openCheckpoint(`${folder}/checkpoint`);
      const plan = densePlan(checkpoint.description);
      const { config } = plan;
      model = {
        plan,
        elastic: elasticPlan(checkpoint.description),
        pairs: new Map(plan.layers.flat().map(({ name }) => [name, originalPairs(config)])),
        rank: RANK,
      };
      weights = await packedParameters(checkpoint, plan);
      const layout = new ParameterLayout(adapterParameters(plan, RANK));
      const random = randomNumbers(3);
      adapters = { layout, values: new Float32Array(layout.length).map(() => 0.1 * random() - 0.05), rank: RANK };
    });
    afterAll(async () => {
      checkpoint.close();
      await Deno.remove(folder, { recursive: true });
    });

    it("trains at each level what is served at it: masked, adapted and mixed equals sliced, merged and alone", async () => {
      const levels = PRUNING_RATES.map((_, level) => level).reverse();
      const masked = await logitsOfMasked(levels);
      const { vocabSize } = model.plan.config;
      const each = TOKENS.length * vocabSize;
      const served = await servedLogits(levels);
      served.forEach((logits, i) => closeTo(masked.subarray(i * each, (i + 1) * each), logits));
      ok(differenceOf(served[0]!, served.at(-1)!) > 1e-2); // or masks could be ones
    });

    it("calibrates at each level what is served at it: weights that are zero equal sliced ones", async () => {
      const { plan, elastic } = model;
      const { config } = plan;
      const blocks = checkpoint.description.layers.flat();
      using sessions = new BlockSessions({ runtime, plan, threads: 1 });
      using head = await DenseHead.open(runtime, {
        plan,
        threads: 1,
        norm: weights.get("final_norm")!,
        head: weights.get("head.weight") ?? weights.get("embedding.weight")!,
      });
      const served = await servedLogits(PRUNING_RATES.map((_, level) => level));
      for (const [level, logits] of served.entries()) {
        const hidden = embed(weights.get("embedding.weight")!, TOKENS, config.hiddenSize);
        for (const [i, block] of plan.layers.flat().entries()) {
          const session = await sessions.open(block);
          const packed = packOriginal(config, await readBlock(checkpoint, blocks[i]!));
          const merged = await mergeAdapters(algebra, packed, { config, block, adapters });
          session.setWeights(narrowWeights(config, elastic.layers.flat()[i]!, merged, level));
          await session.run(hidden);
        }
        closeTo(await head.run(hidden), logits);
      }
    });

    for (const rotated of [false, true]) {
      it(`teaches what the checkpoint says, in another order${rotated ? ", the stream rotated" : ""}`, async () => {
        const { description } = checkpoint;
        const { config } = description;
        const plain = prepareModel(checkpoint);
        const prepared = rotated ? rotateResidual(plain, hadamardRotation(config.hiddenSize)) : plain;
        const optionsOf = (layer: number, index: number): OrderOptions => {
          return {
            order: orderOf("random"),
            statistics: new Map(),
            config,
            algebra,
            ridge: 1,
            seed: 9 * layer + index,
          };
        };
        const orders = await Promise.all(
          description.layers.map((blocks, layer) =>
            Promise.all(
              blocks.map(async (block, index) =>
                methodOf(block.kind).order(await prepared.readBlock(block), optionsOf(layer, index))
              ),
            )
          ),
        );
        const sorted = new SortedModel({
          algebra,
          model: prepared,
          description,
          dense: model.plan,
          orderOf: (layer, index) => orders[layer]![index]!,
          optionsOf,
        });
        const found = await sorted.weights();
        const plan = { ...model.plan, headRotation: found.has("head_rotation.weight") };
        const graph = new GraphBuilder();
        const tokens = graph.input("tokens", ElementType.int64, [TOKENS.length]);
        const shape = { sequences: 1, length: TOKENS.length };
        const parts = { shape, tokens, weights: sortedWeights({ ...model, plan, pairs: sorted.pairs() }) };
        graph.output("logits", sequenceLogits(graph, plan, parts), ElementType.float32);
        using session = await runtime.openSession({ model: graph.build(), threads: 1 });
        const logits = new Float32Array(TOKENS.length * config.vocabSize);
        using binding = session.bind()
          .input("tokens", runtime.tensor(ElementType.int64, [TOKENS.length], BigInt64Array.from(TOKENS, BigInt)))
          .output("logits", runtime.tensor(ElementType.float32, [TOKENS.length, config.vocabSize], logits));
        for (const { name, shape } of trainedParameters(plan)) {
          binding.input(name, runtime.tensor(ElementType.float32, shape, found.get(name)!));
        }
        await binding.run();
        await denseLogits(runtime, checkpoint, [TOKENS], (wanted) => closeTo(logits, wanted), { threads: 1 });
      });
    }

    it("has the gradients of its adapters: they agree with differences", async () => {
      using training = await openTraining();
      training.adapters.set(adapters.values);
      const lossAt = async () => await training.step(0, 0);
      await lossAt();
      const gradient = training.gradient.slice();
      for (const { name } of training.layout.places.values()) {
        const [view, own] = [training.layout.view(training.adapters, name), training.layout.view(gradient, name)];
        const norm = Math.hypot(...own);
        ok(norm > 1e-4, `${name}: the gradient is ${norm}`);
        const before = view.slice();
        const moved = async (step: number) => {
          view.forEach((_, i) => view[i] = before[i]! + step * own[i]! / norm);
          const loss = await lossAt();
          view.set(before);
          return loss;
        };
        const step = 1e-2 / Math.max(1, norm); // the loss moves by about 1e-2, or less
        const slope = (await moved(step) - await moved(-step)) / (2 * step);
        ok(Math.abs(slope / norm - 1) < 0.02, `${name}: slope ${slope}, gradient ${norm}`);
      }
    });

    it("finds nothing to learn in the whole model, and something in a narrow one", async () => {
      using training = await openTraining();
      training.layout.places.forEach(({ name }) => {
        if (name.endsWith(".b")) training.layout.view(training.adapters, name).fill(0);
      });
      ok(await training.step(0, 0) > 1e-3);
      training.levels.fill(0n);
      const same = await training.step(0, 0);
      ok(Math.abs(same) < 1e-6, `${same}`);
    });

    /** Of the merged, sliced model, one sequence after the other. */
    async function servedLogits(levels: readonly number[]): Promise<Float32Array[]> {
      using decoder = await openDecoder(runtime, {
        plan: model.elastic,
        weights: constantWeights(await slicedWeights(), model.elastic),
        folder: ".",
        lanes: 1,
        maxTokens: 16,
        maxRows: 16,
        threads: 1,
      });
      const served: Float32Array[] = [];
      for (const level of levels) {
        const sequence = decoder.openSequence(level);
        served.push((await decoder.step([{ sequence, tokens: TOKENS, logits: "all" }]))[0]!.slice());
        sequence.close();
      }
      return served;
    }

    async function openTraining(): Promise<AdapterTraining> {
      const training = await AdapterTraining.open(runtime, {
        model,
        shape: { sequences: 2, length: TOKENS.length },
        threads: 1,
        weights,
        initialize: () => adapters.values.slice(),
      });
      training.tokens.set(BigInt64Array.from([...TOKENS, ...TOKENS.toReversed()], BigInt));
      training.levels.set([7n, 4n]);
      return training;
    }

    async function logitsOfMasked(levels: readonly number[]): Promise<Float32Array> {
      const graph = new GraphBuilder();
      const shape = { sequences: levels.length, length: TOKENS.length };
      const rows = levels.length * TOKENS.length;
      const tokens = graph.input("tokens", ElementType.int64, [rows]);
      graph.output(
        "logits",
        maskedLogits(graph, model, { shape, tokens, weights: sortedWeights(model) }),
        ElementType.float32,
      );
      using session = await runtime.openSession({ model: graph.build(), threads: 1 });
      const { vocabSize } = model.plan.config;
      const logits = new Float32Array(rows * vocabSize);
      const integers = (values: readonly number[]) =>
        runtime.tensor(ElementType.int64, [values.length], BigInt64Array.from(values, BigInt));
      using binding = session.bind()
        .input("tokens", integers(levels.flatMap(() => [...TOKENS])))
        .input("levels", integers(levels))
        .output("logits", runtime.tensor(ElementType.float32, [rows, vocabSize], logits));
      for (const { name, shape } of trainedParameters(model.plan)) {
        binding.input(name, runtime.tensor(ElementType.float32, shape, weights.get(name)!));
      }
      for (const [name, tensor] of adapters.layout.tensors(runtime, adapters.values)) binding.input(name, tensor);
      await binding.run();
      return logits;
    }

    /** What would be stored of the merged model if it were not quantized. */
    async function slicedWeights(): Promise<Map<string, Floats>> {
      const { plan: { config, layers }, elastic } = model;
      const sliced = new Map(weights);
      const blocks = checkpoint.description.layers.flat();
      for (const [i, block] of layers.flat().entries()) {
        const packed = packOriginal(config, await readBlock(checkpoint, blocks[i]!));
        const merged = await mergeAdapters(algebra, packed, { config, block, adapters });
        const whole = new Map(namedWeights(config, block, merged));
        const cut = elastic.layers.flat()[i]!;
        for (const { cut: axis, stored, order } of methodOf(block.kind).projections) {
          const name = stored(config, block)[0]!.name;
          const places = order(config, cut);
          const bias = whole.get(`${name}.bias`);
          let start = 0;
          for (const piece of stored(config, cut)) {
            const length = axis === "rows" ? piece.outFeatures : piece.inFeatures;
            const own = places.slice(start, start += length);
            const take = axis === "rows" ? takeRows : takeColumns;
            const width = axis === "rows" ? piece.inFeatures : places.length;
            sliced.set(`${piece.name}.weight`, take(whole.get(`${name}.weight`)!, width, own));
            if (piece.bias) sliced.set(`${piece.name}.bias`, axis === "rows" ? takeRows(bias!, 1, own) : bias!);
          }
        }
      }
      return sliced;
    }
  });
}

describe("recover()", () => {
  let weights: Map<string, Floats>;

  beforeAll(async () => {
    const { layout, weights: flat } = await counting();
    weights = new Map([...layout.places.keys()].map((name) => [name, layout.view(flat, name)]));
  });

  it("brings narrow levels closer to the whole model", async () => {
    const { divergences } = await recovered(null, 120);
    const mean = (part: readonly number[]) => part.reduce((sum, value) => sum + value, 0) / part.length;
    const [first, last] = [mean(divergences.slice(0, 20)), mean(divergences.slice(-20))];
    ok(last < 0.5 * first, `${first}, then ${last}`);
  });

  it("goes on from a saved state as if it had not been interrupted", async () => {
    let saved: RecoveryState | undefined;
    const whole = await recovered(null, 6, (state) => {
      if (state.divergences.length !== 2) return;
      const { adapters, mean, square, divergences } = state;
      saved = {
        adapters: adapters.slice(),
        mean: mean.slice(),
        square: square.slice(),
        divergences: [...divergences],
      };
    });
    const resumed = await recovered(saved!, 6);
    deepEqual(resumed.divergences, whole.divergences);
    deepEqual(resumed.adapters, whole.adapters);
  });

  it("learns from texts in turn: the same text twice is that text, another beside it is not", async () => {
    const [alone, twice, other] = [
      await recovered(null, 2),
      await recovered(null, 2, () => {}, [COUNTING, COUNTING]),
      await recovered(null, 2, () => {}, [COUNTING, COUNTING.toReversed()]),
    ];
    deepEqual(twice.divergences, alone.divergences);
    notDeepEqual(other.divergences, alone.divergences);
  });

  it("refuses to go on where the divergence is no number", async () => {
    weights.set("final_norm", weights.get("final_norm")!.map(() => NaN));
    await rejects(recovered(null, 3), {
      name: "RangeError",
      message: "Cannot recover: the divergence became NaN at step 0",
    });
  });

  async function recovered(
    from: RecoveryState | null,
    steps: number,
    afterStep: (state: RecoveryState) => void = () => {},
    texts: readonly Int32Array[] = [COUNTING],
  ): Promise<RecoveryState> {
    const { description, plan } = await counting();
    return await recover(
      runtime,
      {
        model: {
          plan,
          elastic: elasticPlan(description),
          pairs: new Map(plan.layers.flat().map(({ name }) => [name, originalPairs(plan.config)])),
          rank: RANK,
        },
        weights,
        texts,
        recipe: { steps, sequences: 4, sequenceLength: 16, rank: RANK, learningRate: 3e-3 },
        seed: 1,
        threads: 1,
      },
      from,
      (state) => Promise.resolve(afterStep(state)),
    );
  }
});

describe("drawnLevel()", () => {
  it("draws the whole model every fourth time, and each narrower level more often by e^0.1", () => {
    const draws = 80_000;
    const counts = new Array<number>(8).fill(0);
    for (let i = 0; i < draws; i++) counts[drawnLevel(8, (i + 0.5) / draws)]!++;
    equal(counts[0], draws / 4);
    for (let level = 1; level < 7; level++) {
      const ratio = counts[level + 1]! / counts[level]!;
      ok(Math.abs(ratio - Math.exp(0.1)) < 1e-3, `level ${level + 1} to ${level}: ${ratio}`);
    }
    deepEqual([drawnLevel(8, 0), drawnLevel(8, 0.25), drawnLevel(8, 1 - 2 ** -53), drawnLevel(2, 0.5)], [0, 7, 1, 1]);
  });
});

describe("compress(), for narrow levels", () => {
  let folder: string;

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  for (const hadamard of [true, false]) {
    it(`makes the narrowest better${hadamard ? ", with the stream rotated" : ""}: by its share, and by recovery`, async () => {
      const { rawConfig, description, plan, layout, weights } = await counting();
      await writeTrainedCheckpoint(`${folder}/counting`, {
        tensors: trainedTensors(description, plan, layout, weights),
        rawConfig,
        config: description.config,
        tokenizer: { tokenizerJson: TINY_TOKENIZER, tokenizerConfig: {} },
        provenance: {},
      });
      using checkpoint = await openCheckpoint(`${folder}/counting`);
      const calibration = calibrationData([COUNTING], { samples: 8, length: 32, seed: 1 });
      /** Nats per token at the largest rate. */
      const loss = async (recipe: object) => {
        const { levels, recovery } = await compressed({ checkpoint, calibration, recipe: { hadamard, ...recipe } });
        equal(recovery === null, !("recovery" in recipe));
        return Math.log(levels.at(-1)!.perplexity!);
      };
      const recovery = { steps: 120, sequences: 4, sequenceLength: 16, learningRate: 3e-3 };
      const [plain, shared, recovered] = [
        await loss({ narrowShare: 0 }),
        await loss({}),
        await loss({ recovery }),
      ];
      ok(shared < 0.97 * plain, `${plain} became ${shared}`);
      ok(recovered < 0.75 * shared, `${shared} became ${recovered}`);
    });
  }

  for (const family of ["qwen2", "nemotron_h", "bamba"] as const) {
    it(`recovers a ${family}, and leaves it nearly as it was in three small steps`, async () => {
      await TINY_FAMILIES[family](`${folder}/${family}`, 11);
      using checkpoint = await openCheckpoint(`${folder}/${family}`);
      const calibration = calibrationData([TEXT], { samples: 6, length: 48, seed: 1 });
      const recovery = { steps: 3, sequences: 2, sequenceLength: 16, learningRate: 1e-5 };
      const [plain, recovered] = [
        await compressed({ checkpoint, calibration, recipe: {} }),
        await compressed({ checkpoint, calibration, recipe: { recovery } }),
      ];
      deepEqual([plain.recovery, recovered.recovery?.steps], [null, 3]);
      for (const [i, { perplexity }] of recovered.levels.entries()) {
        const change = perplexity! / plain.levels[i]!.perplexity!;
        ok(change !== 1 && Math.abs(change - 1) < 0.1, `level ${i}: ${change}`);
      }
    });
  }

  async function compressed(
    { recipe, ...job }: Pick<Job, "checkpoint" | "calibration"> & { recipe: object },
  ): Promise<Report> {
    return await compress({
      ...job,
      out: await Deno.makeTempDir({ dir: folder }),
      name: "tiny",
      blockSize: 32,
      recipe: parseRecipe(recipe),
      seed: 0,
      threads: 1,
    }, { runtime, progress: () => {}, say: () => {}, now: () => performance.now(), saveEveryMs: 1e9 });
  }
});

let learnt: Promise<TinyModel> | undefined;

/** A tiny Llama that counts: every token but the first of a story follows from the one before. */
function counting(): Promise<TinyModel> {
  return learnt ??= (async () => {
    const tiny = tinyLlama();
    const shape = { sequences: 4, length: 16 };
    using trainer = await Trainer.open(runtime, {
      plan: tiny.plan,
      shape,
      threads: 1,
      initialize: () => tiny.weights.slice(),
    });
    const stream = joinStories(STORIES);
    for (let step = 0; step < 200; step++) {
      fillWithRandomWindows(stream, shape.length, trainer.batch, randomFor(2, "windows", step));
      await trainer.step(step, 5e-3);
    }
    return { ...tiny, weights: trainer.weights };
  })();
}

/** The model cut alike in every layer at every prepared rate. */
function elasticPlan({ config, layers }: ModelDescription): ModelPlan {
  const widths = blockWidths(config, layers, layers.map(() => 0), {
    recipe: { layerRates: "uniform", influenceTemperature: 0.1 },
    blockSize: 32,
    rates: PRUNING_RATES,
  });
  return planModel(config, layers.map((blocks, i) => blocks.map((block, j) => specOf(block, widths[i]![j]!))));
}

/** The largest difference, as a share of the largest expected value. */
function differenceOf(actual: Float32Array, expected: Float32Array): number {
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return expected.reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i]!)), 0) / scale;
}

function closeTo(actual: Float32Array, expected: Float32Array): void {
  equal(actual.length, expected.length);
  const error = differenceOf(actual, expected);
  ok(error <= 1e-4, `relative error ${error}`);
}
