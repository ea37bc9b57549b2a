import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { methodOf } from "../compression/blocks/mod.ts";
import { calibrationData } from "../compression/calibration.ts";
import { compress } from "../compression/compress.ts";
import { hadamardRotation, supportsHadamard } from "../compression/hadamard.ts";
import { checkJob, type Job } from "../compression/job.ts";
import { ORDER_NAMES, type OrderName, orderOf } from "../compression/orders/mod.ts";
import { prepareModel, rotateResidual } from "../compression/prepared_model.ts";
import { parseRecipe, rotatesResidual } from "../compression/recipe.ts";
import { openLinearAlgebra } from "../kernels/linear_algebra.ts";
import { type Artefact, openArtefact } from "../models/artefact.ts";
import { densePlan, packOriginal } from "../models/block_tensors.ts";
import { type Checkpoint, openCheckpoint } from "../models/checkpoint.ts";
import { openDecoder } from "../models/decoder.ts";
import { DenseBlock, DenseHead } from "../models/dense_block.ts";
import { denseLogits, embed } from "../models/dense_model.ts";
import { planAtLevel } from "../models/plan.ts";
import { RangeFile } from "../models/range_file.ts";
import { readSafetensorsHeader } from "../models/safetensors.ts";
import { storedTensors } from "../models/stored_tensors.ts";
import { openRuntime } from "../onnx/mod.ts";
import { writeTinyCheckpoint } from "./support/tiny_checkpoint.ts";
import { TINY_FAMILIES } from "./support/tiny_families.ts";
import { TINY_LLAMA, TINY_QWEN } from "./support/tiny_models.ts";

const runtime = openRuntime();
const algebra = openLinearAlgebra();
const TOKENS = Int32Array.from({ length: 40 }, (_, i) => (i * i * 7 + 3 * i) % 90);
/** Calibration needs no sense, only tokens. */
const TEXT = Int32Array.from({ length: 3000 }, (_, i) => (i * 31 + Math.floor(i / 7) * 17) % 95);

for (const [name, writeCheckpoint] of Object.entries(TINY_FAMILIES)) {
  describe(`Compression of a tiny ${name}`, () => {
    let folder: string;
    let checkpoint: Checkpoint;
    let dense: Float32Array;

    beforeAll(async () => {
      folder = await Deno.makeTempDir();
      await writeCheckpoint(`${folder}/checkpoint`, 11);
      checkpoint = await openCheckpoint(`${folder}/checkpoint`);
      await denseLogits(runtime, checkpoint, [TOKENS], (logits) => dense = logits.slice(), { threads: 1 });
    });
    afterAll(async () => {
      checkpoint.close();
      await Deno.remove(folder, { recursive: true });
    });

    for (const order of ORDER_NAMES) {
      for (const hadamard of [false, true]) {
        it(`changes nothing at rate 0: ${order} order${hadamard ? ", rotated stream" : ""}`, async () => {
          closeTo(await sortedLogits(checkpoint, order, hadamard), dense, 1e-4);
        });
      }
    }

    it("stores a narrower level as some of the tensors of a wider one", async () => {
      const artefact = await compressed(`${folder}/nested`, {});
      const names = artefact.levels.map((_, level) =>
        new Set(storedTensors(planAtLevel(artefact.plan, level), 32).map((entry) => entry.name))
      );
      names.slice(1).forEach((narrower, i) => ok(narrower.isSubsetOf(names[i]!)));
      ok(names.at(-1)!.size < names[0]!.size);
      deepEqual([...names[0]!], storedTensors(artefact.plan, 32).map((entry) => entry.name));
    });

    for (const order of ["magnitude", "random"] as const) {
      it(`keeps what int4 can hold exactly, through ${order} order, GPTQ and storage`, async () => {
        await writeCheckpoint(`${folder}/grid-${order}`, 21, { onGrid: true });
        using grid = await openCheckpoint(`${folder}/grid-${order}`);
        let expected: Float32Array | undefined;
        await denseLogits(runtime, grid, [TOKENS], (logits) => expected = logits.slice(), { threads: 1 });
        const job = {
          ...jobOf(`${folder}/exact-${order}`, { order, hadamard: false, balance: false, narrowShare: 0 }),
          checkpoint: grid,
        };
        await compress(job, context);
        closeTo(await int4Logits(await openArtefact(job.out)), expected!, 1e-4);
      });
    }

    async function int4Logits(artefact: Artefact): Promise<Float32Array> {
      using decoder = await openDecoder(runtime, {
        plan: artefact.plan,
        weights: artefact.weights({ accuracy: 0 }),
        folder: artefact.folder,
        lanes: 1,
        maxTokens: 64,
        maxRows: 64,
        threads: 1,
      });
      const sequence = decoder.openSequence(0);
      return (await decoder.step([{ sequence, tokens: TOKENS, logits: "all" }]))[0]!.slice();
    }

    if (name === "llama") {
      for (const hadamard of [false, true]) {
        it(`comes close to the dense model at rate 0${hadamard ? ", rotated stream" : ""}`, async () => {
          const logits = await int4Logits(await compressed(`${folder}/close-${hadamard}`, { hadamard }));
          // Int4 in blocks of 32 is about 7 % off in each matrix; what must not happen is that structure is lost.
          ok(correlation(logits, dense) > 0.95, `correlation ${correlation(logits, dense)}`);
        });
      }
    }

    it("goes on where it was stopped and ends with the same bytes", async () => {
      const whole = await compressed(`${folder}/whole`, {});
      let steps = 0;
      const stop = new AbortController();
      const job = jobOf(`${folder}/resumed`, {});
      await rejects(
        compress(job, {
          ...context,
          signal: stop.signal,
          progress: (_, label) => {
            if (label === "quantization" && ++steps === 4) stop.abort(new Error("pulled the plug"));
          },
        }),
        /pulled the plug/,
      );
      await rejects(openArtefact(job.out), /no readable espalier.json/);
      let again = 0;
      await compress(job, { ...context, progress: (_, label) => again += label === "statistics" ? 1 : 0 });
      equal(again, 0, "the statistics were made again");
      const resumed = await openArtefact(job.out);
      equal(resumed.digest, whole.digest);
      const left = (await Array.fromAsync(Deno.readDir(job.out))).filter(({ name }) =>
        /journal|hidden|arr|lock/.test(name)
      );
      deepEqual(left, []);
    });

    async function compressed(out: string, recipe: Record<string, unknown>) {
      await compress(jobOf(out, recipe), context);
      return await openArtefact(out);
    }

    function jobOf(out: string, recipe: Record<string, unknown>): Job {
      return {
        checkpoint,
        out,
        name: "tiny",
        calibration: calibrationData([TEXT], { samples: 6, length: 48, seed: 1 }),
        blockSize: 32,
        recipe: parseRecipe(recipe),
        seed: 5,
        threads: 1,
      };
    }
  });
}

describe("compress()", () => {
  it("names every tensor with a number that is not finite, before any work", async () => {
    const folder = await Deno.makeTempDir();
    try {
      await writeTinyCheckpoint(`${folder}/checkpoint`, TINY_LLAMA, 1);
      const [gate, norm] = ["model.layers.1.mlp.gate_proj.weight", "model.norm.weight"];
      await spoil(`${folder}/checkpoint/model.safetensors`, { [gate!]: NaN, [norm!]: -Infinity });
      using checkpoint = await openCheckpoint(`${folder}/checkpoint`);
      const job = smallJob(checkpoint, `${folder}/out`, {});
      const progress = () => ok(false, "it began");
      await rejects(compress(job, { ...context, progress }), (error: Error) => {
        const { path } = checkpoint;
        equal(error.message, `Cannot compress ${path}: not all numbers are finite in\n  ${gate}\n  ${norm}`);
        return error instanceof RangeError;
      });
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });

  const overflows: readonly [where: string, tensor: string, value: number, said: RegExp][] = [
    ["a weight is beyond the format", "layers.1.self_attn.q_proj", 1e9, /layers\.1\.attention\.qkv: .*magnitude/],
    ["squares of outputs overflow", "layers.1.mlp.down_proj", 1e25, /layers\.1\.mlp\.down: .*squared size is NaN/],
    ["sums of inputs overflow", "layers.1.post_attention_layernorm", 1e20, /layers\.1\.mlp: Cannot factor/],
    [
      "scores overflow",
      "layers.1.self_attn.q_proj",
      1e25,
      /layers\.1\.attention: not all of its pairScores are finite/,
    ],
    ["activations overflow", "layers.0.input_layernorm", 3e38, /layers\.0: the activations that leave it/],
    ["what the head reads overflows", "norm", 3e38, /embedding: Cannot factor .*: its trace is NaN/],
  ];
  for (const [where, tensor, value, said] of overflows) {
    it(`names the part where ${where}, and makes no artefact`, async () => {
      const folder = await Deno.makeTempDir();
      try {
        await writeTinyCheckpoint(`${folder}/checkpoint`, TINY_LLAMA, 1);
        await spoil(`${folder}/checkpoint/model.safetensors`, { [`model.${tensor}.weight`]: value });
        using checkpoint = await openCheckpoint(`${folder}/checkpoint`);
        // Orders by anything would find the activations first.
        const job = smallJob(checkpoint, `${folder}/out`, where === "activations overflow" ? { order: "random" } : {});
        await rejects(compress(job, context), { name: "RangeError", message: said });
        equal(await Deno.stat(job.out).catch(() => null), null);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    });
  }
});

function smallJob(checkpoint: Job["checkpoint"], out: string, recipe: unknown): Job {
  return {
    checkpoint,
    out,
    name: "x",
    calibration: calibrationData([TEXT], { samples: 2, length: 16, seed: 1 }),
    blockSize: 32,
    recipe: parseRecipe(recipe),
    seed: 0,
    threads: 1,
  };
}

describe("checkJob()", () => {
  it("names everything that is in the way, before any work", async () => {
    const folder = await Deno.makeTempDir();
    try {
      await writeTinyCheckpoint(`${folder}/checkpoint`, { ...TINY_LLAMA, headDim: 12 }, 1);
      using checkpoint = await openCheckpoint(`${folder}/checkpoint`);
      const job: Job = {
        checkpoint,
        out: folder,
        name: "x",
        calibration: {
          windows: [new Int32Array(300).fill(200)],
          texts: [new Int32Array(300).fill(200)],
          heldOut: [Int32Array.of(1, 2)],
        },
        blockSize: 128,
        recipe: parseRecipe({ recovery: { steps: 1, sequenceLength: 301 } }),
        seed: 0,
        threads: 1,
      };
      await rejects(checkJob(job, { supportsHadamard, memory: 1e6, disk: 1000 }), (error: Error) => {
        const free = ["of memory, 1 MB are free", "of disk, 0 MB are free"];
        for (
          const part of [
            "hidden_size 64",
            "head_dim 12",
            "token 200",
            "300 tokens, the model holds 256",
            "recovery's sequences have 301 tokens, the model holds 256",
            "recovery's sequences have 301 tokens, the text 300",
            ...free,
            "not empty",
          ]
        ) {
          ok(error.message.includes(part), `${part} is not in: ${error.message}`);
        }
        return true;
      });
      await Deno.mkdir(`${folder}/empty`);
      await Deno.symlink(`${folder}/empty`, `${folder}/link`);
      await Deno.writeTextFile(`${folder}/file`, "");
      for (const [out, said] of [["link", /link is a link/], ["file", /file is no folder/]] as const) {
        const elsewhere = { ...job, out: `${folder}/${out}` };
        await rejects(checkJob(elsewhere, { supportsHadamard, memory: 1000, disk: 1000 }), said);
      }
      await Deno.symlink(`${folder}/checkpoint`, `${folder}/new.partial`);
      const onto = { ...job, out: `${folder}/new` };
      await rejects(
        checkJob(onto, { supportsHadamard, memory: 1000, disk: 1000 }),
        /new\.partial holds the checkpoint/,
      );
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

describe("parseRecipe()", () => {
  it("names unknown fields and wrong values", () => {
    deepEqual(parseRecipe({}).order, "importance");
    const hurt = { config: TINY_QWEN, rotationHurts: true };
    deepEqual([{ config: TINY_LLAMA }, hurt].map((model) => rotatesResidual(parseRecipe({}), model)), [true, false]);
    equal(rotatesResidual(parseRecipe({}), { config: { ...TINY_LLAMA, hiddenSize: 92 } }), false);
    equal(rotatesResidual(parseRecipe({ hadamard: true }), hurt), true);
    for (const wrong of [{ ordr: "random" }, { order: "best" }, { ridgeLambda: 0 }]) {
      let message = "";
      try {
        parseRecipe(wrong);
      } catch (error) {
        message = (error as Error).message;
      }
      ok(message.includes(Object.keys(wrong)[0]!), message);
    }
  });
});

const context = { runtime, progress: () => {}, say: () => {}, now: () => performance.now(), saveEveryMs: 0 };

/** Logits of the sorted model in float32: orders and rotations applied, nothing quantized. */
async function sortedLogits(
  checkpoint: Checkpoint,
  name: OrderName,
  hadamard: boolean,
): Promise<Float32Array> {
  const order = orderOf(name);
  const { description } = checkpoint;
  const { config } = description;
  const plain = prepareModel(checkpoint);
  const model = hadamard ? rotateResidual(plain, hadamardRotation(config.hiddenSize)) : plain;
  const plan = densePlan(description);
  const embedding = await model.readEmbedding();
  const hidden = embed(embedding, TOKENS, config.hiddenSize);
  for (const [layer, blocks] of description.layers.entries()) {
    for (const [index, block] of blocks.entries()) {
      const tensors = await model.readBlock(block);
      const method = methodOf(block.kind);
      const statistic = method.orderStatistics(config, order);
      using dense = await DenseBlock.open(runtime, {
        plan,
        block: plan.layers[layer]![index]!,
        threads: 1,
        ...(statistic && { statistic }),
      });
      dense.setWeights(packOriginal(config, tensors));
      await dense.run(hidden.slice());
      const { statistics } = dense;
      const options = { config, order, algebra, statistics, ridge: 0.1, seed: 100 * layer + index };
      const known = await method.order(tensors, options);
      const kept = [...statistics].filter(([name]) => name === method.arrangedBy?.(order));
      const ordered = await method.arrange?.(tensors, { ...options, statistics: new Map(kept) }) ?? tensors;
      dense.setWeights(method.pack(config, ordered, known));
      await dense.run(hidden);
    }
  }
  // A rotated tied head has a matrix before it; fold it into the head for this comparison.
  const rotation = await model.readHeadRotation();
  let head = await model.readHead() ?? embedding;
  if (rotation !== null) {
    const { hiddenSize: D, vocabSize: V } = config;
    const folded = new Float32Array(V * D);
    for (let token = 0; token < V; token++) {
      for (let i = 0; i < D; i++) {
        let sum = 0;
        for (let j = 0; j < D; j++) sum += head[token * D + j]! * rotation[j * D + i]!;
        folded[token * D + i] = sum;
      }
    }
    head = folded;
  }
  using last = await DenseHead.open(runtime, { plan, threads: 1, norm: await model.readFinalNorm(), head });
  return await last.run(hidden);
}

/** The largest difference, as a share of the largest expected value. */
function closeTo(actual: Float32Array, expected: Float32Array, tolerance: number): void {
  equal(actual.length, expected.length);
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  const error = expected.reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i]!)), 0) / scale;
  ok(error <= tolerance, `relative error ${error}, allowed ${tolerance}`);
}

function correlation(a: Float32Array, b: Float32Array): number {
  const mean = (x: Float32Array) => x.reduce((sum, value) => sum + value, 0) / x.length;
  const [ma, mb] = [mean(a), mean(b)];
  let [ab, aa, bb] = [0, 0, 0];
  a.forEach((value, i) => {
    ab += (value - ma) * (b[i]! - mb);
    aa += (value - ma) ** 2;
    bb += (b[i]! - mb) ** 2;
  });
  return ab / Math.sqrt(aa * bb);
}

/** Puts a value into the middle of each of some float32 tensors. */
async function spoil(path: string, values: Readonly<Record<string, number>>): Promise<void> {
  const bytes = await Deno.readFile(path);
  using file = await RangeFile.open(path);
  const { tensors } = await readSafetensorsHeader(file);
  for (const [name, value] of Object.entries(values)) {
    const { offset, bytes: size } = tensors.get(name)!;
    new DataView(bytes.buffer).setFloat32(offset + (size >> 3) * 4, value, true);
  }
  await Deno.writeFile(path, bytes);
}
