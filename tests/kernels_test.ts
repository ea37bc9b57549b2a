import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type KernelsState, openKernels } from "../kernels/native_library.ts";
import { type Artefact, openArtefact } from "../models/artefact.ts";
import { type Decoder, openDecoder } from "../models/decoder.ts";
import { type ModelPlan, planAtLevel } from "../models/plan.ts";
import { writeRandomArtefact } from "../models/random_artefact.ts";
import { PRUNING_RATES } from "../models/widths.ts";
import { ElementType, GraphBuilder, openRuntime, type Value } from "../onnx/mod.ts";
import { TINY_ARTEFACTS } from "./support/tiny_models.ts";

const state = await openKernels();

describe("openKernels()", () => {
  it("makes a library where a compiler is, and says why where it does not", async () => {
    ok((state.kernels === null) !== (state.reason === null));
    equal(state.failure, undefined);
    await withEnvironment("ESPALIER_KERNELS", "off", async () => {
      const off: KernelsState = await openKernels();
      equal(off.kernels, null);
      ok(off.reason?.includes("ESPALIER_KERNELS=off"));
    });
  });

  it("refuses a library that is none, or none of ours", async () => {
    const script = fileURLToPath(import.meta.url);
    const problems = {
      "/nowhere.so": "No such file",
      [script]: `${script}: cut short, changed, or not made by a build`,
    };
    for (const [path, problem] of Object.entries(problems)) {
      await withEnvironment("ESPALIER_KERNELS", path, () =>
        rejects(openKernels(), ({ name, message }: Error) => {
          const wanted =
            `ESPALIER_KERNELS must be the path of a library of our operators, or off, not "${path}": ${problem}`;
          ok(name === "RangeError" && message.startsWith(wanted), message);
          return true;
        }));
    }
  });
});

if (state.kernels !== null) {
  const { path } = state.kernels;

  it("An instruction set that the processor lacks is refused by name, with those that it has", async () => {
    await withEnvironment("ESPALIER_INSTRUCTION_SET", "quantum", () =>
      rejects(openKernels(), {
        name: "RangeError",
        message: /^ESPALIER_INSTRUCTION_SET must be one of .*portable on this processor, not "quantum"/,
      }));
  });

  const sets: string[] = [];
  for (const set of ["amx", "avx512vnni", "avxvnni", "avx2", "i8mm", "dotprod", "portable"]) {
    await withEnvironment("ESPALIER_INSTRUCTION_SET", set, async () => {
      if (await openKernels().then(() => true, () => false)) sets.push(set);
    });
  }

  for (const set of sets) {
    describe(`PrefixMatMul with ${set}`, () => {
      for (const blockSize of [32, 64, 128]) {
        for (
          const [inFeatures, outFeatures, rows] of [[128, 16, 1], [200, 37, 3], [96, 5, 9], [256, 130, 40]] as const
        ) {
          it(`is the sum of its codes: ${outFeatures} × ${inFeatures}, blocks of ${blockSize}, ${rows} rows`, async () => {
            await checkProduct(set, { inFeatures, outFeatures, rows, blockSize });
          });
        }
      }
    });

    for (const [name, options] of Object.entries(TINY_ARTEFACTS)) {
      describe(`Own operators on a tiny ${name} with ${set}`, () => {
        let [folder, artefact, decoder]: [string, Artefact | undefined, Decoder | undefined] = [
          "",
          undefined,
          undefined,
        ];
        beforeAll(async () => {
          folder = await Deno.makeTempDir();
          await writeRandomArtefact(folder, { ...options, blockSize: 32, seed: 7 });
          artefact = await openArtefact(folder);
          decoder = await open(set, artefact, path);
        });
        afterAll(async () => {
          decoder?.close();
          await Deno.remove(folder, { recursive: true });
        });

        it("give a sequence among others bit for bit what it gets alone", async () => {
          const rows = [{ level: 7, tokens: TOKENS }, { level: 0, tokens: TOKENS.slice(2) }, { level: 3, tokens: [9] }];
          const expected: Float32Array[] = [];
          for (const { level, tokens } of rows) expected.push(await alone(decoder!, level, tokens));
          const sequences = rows.map(({ level }) => decoder!.openSequence(level));
          const entries = rows.map(({ tokens }, i) => ({ sequence: sequences[i]!, tokens, logits: "all" as const }));
          const together = (await decoder!.step(entries)).map((view) => view.slice());
          for (const sequence of sequences) sequence.close();
          together.forEach((logits, i) => deepEqual(logits, expected[i]));
        });

        it("give a prompt in pieces bit for bit what it gets whole", async () => {
          for (const level of [0, 5]) {
            const sequence = decoder!.openSequence(level);
            const pieces: number[] = [];
            for (const [start, end] of [[0, 4], [4, 5], [5, TOKENS.length]] as const) {
              const tokens = TOKENS.slice(start, end);
              const [logits] = await decoder!.step([{ sequence, tokens, logits: "all" }]);
              pieces.push(...logits!);
            }
            sequence.close();
            deepEqual(Float32Array.from(pieces), await alone(decoder!, level, TOKENS));
          }
        });

        it("give a level what a graph of this level alone gives", async () => {
          for (const level of [0, 2, 5, 7]) {
            const narrow = await open(set, artefact!, path, { plan: planAtLevel(artefact!.plan, level) });
            try {
              const [wide, cut] = [await alone(decoder!, level, TOKENS), await alone(narrow, 0, TOKENS)];
              // The gated norm sums fewer zeros in another order; the rest is the same bits.
              if (options.config.mamba === undefined || level === 0) deepEqual(cut, wide);
              else ok(relativeError(cut, wide) < INT8_BOUND, `level ${level}: ${relativeError(cut, wide)}`);
            } finally {
              narrow.close();
            }
          }
        });

        it("leave a sequence of a failed step only where no state can have been overwritten", async () => {
          const sequence = decoder!.openSequence(1);
          const step = (token: number) => decoder!.step([{ sequence, tokens: [token], logits: "last" }]);
          await rejects(step(options.config.vocabSize), { name: "OrtError" });
          if (options.config.mamba === undefined) equal((await step(3))[0]!.length, options.config.vocabSize);
          else await rejects(step(3), /its states are lost/);
          sequence.close();
          // A slot that was given back starts from zeros.
          deepEqual(await alone(decoder!, 1, TOKENS), await alone(decoder!, 1, TOKENS));
        });

        it("agree with stock operators within what int8 activations leave open, at every level", async () => {
          const stock = await open(set, artefact!, null);
          try {
            for (const level of PRUNING_RATES.keys()) {
              const [ours, theirs] = [await alone(decoder!, level, TOKENS), await alone(stock, level, TOKENS)];
              ok(relativeError(ours, theirs) < INT8_BOUND, `level ${level}: ${relativeError(ours, theirs)}`);
            }
          } finally {
            stock.close();
          }
        });

        it("narrow a sequence as stock operators do, keys side by side or not", async () => {
          if (!decoder!.narrows) return; // that it says so is tested in models/decoder_test.ts
          const prompt = Array.from({ length: 21 }, (_, i) => (7 * i + 3) % options.config.vocabSize);
          const narrowed = async (decoder: Decoder) => {
            const sequence = decoder.openSequence(1);
            await decoder.step([{ sequence, tokens: prompt, logits: "none" }]);
            sequence.narrow(6);
            const [logits] = await decoder.step([{ sequence, tokens: TOKENS, logits: "all" }]);
            sequence.close();
            return logits!.slice();
          };
          const stock = await open(set, artefact!, null);
          try {
            const error = relativeError(await narrowed(decoder!), await narrowed(stock));
            ok(error < INT8_BOUND, `${error}`);
          } finally {
            stock.close();
          }
        });

        it("give as one chain bit for bit what they give as nodes of their own", async () => {
          const apart = await open(set, artefact!, path, { profilePrefix: `${folder}/apart` });
          try {
            const steps = async (decoder: Decoder) => {
              const sequences = [7, 0, 3].map((level) => decoder.openSequence(level));
              const results: Float32Array[] = [];
              for (const tokens of [TOKENS, [9], TOKENS.slice(4)]) {
                const entries = sequences.map((sequence) => ({ sequence, tokens, logits: "all" as const }));
                for (const logits of await decoder.step(entries)) results.push(logits.slice());
              }
              for (const sequence of sequences) sequence.close();
              return results;
            };
            deepEqual(await steps(decoder!), await steps(apart));
          } finally {
            apart.close();
          }
        });

        it("give the same bits on one thread and on two", async () => {
          const two = await open(set, artefact!, path, { threads: 2 });
          try {
            for (const level of [0, 4, 7]) {
              deepEqual(await alone(two, level, TOKENS), await alone(decoder!, level, TOKENS));
            }
          } finally {
            two.close();
          }
        });
      });
    }
  }

  it("A product of the wrong size is refused by name, and the session stays usable", async () => {
    const { session, run } = await productSession(sets[0]!, { inFeatures: 64, outFeatures: 8, blockSize: 32 }, [
      "rows",
      "k",
    ]);
    await rejects(run(new Float32Array(3 * 32), [3, 32]), /PrefixMatMul: x has 96 elements in 3 rows, wanted 64 a row/);
    equal((await run(new Float32Array(2 * 64), [2, 64])).length, 16);
    session.close();
  });
}

/**
 * Share of the logits' root mean square by which two roundings of activations to int8 may part. Chosen, not derived: what
 * is exact is tested against plain loops, this one catches a wrong layout, which is off by the whole.
 */
const INT8_BOUND = 0.03;

const TOKENS = [5, 90, 17, 3, 3, 44, 61, 8, 23, 70, 11];

async function open(
  set: string,
  artefact: Artefact,
  operators: string | null,
  { plan = artefact.plan, threads = 1, ...options }: { plan?: ModelPlan; threads?: number; profilePrefix?: string } =
    {},
): Promise<Decoder> {
  let decoder: Decoder | undefined;
  await withEnvironment("ESPALIER_INSTRUCTION_SET", set, async () => {
    decoder = await openDecoder(openRuntime(), {
      plan,
      weights: artefact.weights(),
      folder: artefact.folder,
      ...{ lanes: 3, maxTokens: 64, maxRows: 40, threads, operators },
      ...options,
    });
  });
  return decoder!;
}

async function alone(decoder: Decoder, level: number, tokens: number[]): Promise<Float32Array> {
  const sequence = decoder.openSequence(level);
  const [logits] = await decoder.step([{ sequence, tokens, logits: "all" }]);
  const copy = logits!.slice();
  sequence.close();
  return copy;
}

function relativeError(found: Float32Array, wanted: Float32Array): number {
  let [error, size] = [0, 0];
  found.forEach((value, i) => {
    error += (value - wanted[i]!) ** 2;
    size += wanted[i]! ** 2;
  });
  return Math.sqrt(error / size);
}

interface ProductShape {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly blockSize: number;
}

/** A session over one product of patterned weights. */
async function productSession(set: string, { inFeatures, outFeatures, blockSize }: ProductShape, shape: string[]) {
  const blocks = Math.ceil(inFeatures / blockSize);
  const codes = Uint8Array.from({ length: outFeatures * blocks * blockSize / 2 }, (_, i) => (i * 73 + 41) % 251);
  const scales = Float16Array.from(
    { length: outFeatures * blocks },
    (_, i) => (-1) ** i * (0.01 + (i * 31 % 17) / 256),
  );
  // A file may begin with what a product has nothing to do with.
  const places = [64, 64 + codes.length + codes.length % 2];
  const file = new Uint8Array(places[1]! + scales.byteLength);
  file.set(codes, places[0]);
  file.set(new Uint8Array(scales.buffer), places[1]);
  const graph = new GraphBuilder();
  const x = graph.input("x", ElementType.float32, shape);
  const absent = "" as Value;
  const inputs = [
    ...[x, absent, absent, absent],
    graph.initializer("file", ElementType.uint8, [file.length], file),
  ];
  const y = graph.op("PrefixMatMul", inputs, {
    domain: "espalier",
    attributes: {
      ...{ cut: 0, activation: 0, groups: [1], uncut: inFeatures, block_size: blockSize, epsilon: { float: 0 } },
      ...{ widths: [outFeatures], levels: [0], biases: [0], places },
    },
  });
  graph.output("y", y, ElementType.float32);
  const runtime = openRuntime();
  let session!: Awaited<ReturnType<typeof runtime.openSession>>;
  await withEnvironment("ESPALIER_INSTRUCTION_SET", set, async () => {
    session = await runtime.openSession({ model: graph.build(), threads: 1, operators: state.kernels!.path });
  });
  const run = async (data: Float32Array<ArrayBuffer>, size: number[]) => {
    const out = new Float32Array(size[0]! * outFeatures);
    using input = runtime.tensor(ElementType.float32, size, data);
    using output = runtime.tensor(ElementType.float32, [size[0]!, outFeatures], out);
    using binding = session.bind();
    await binding.input("x", input).output("y", output).run();
    return out;
  };
  return { session, run, codes, scales, blocks };
}

/** Against plain loops that round activations as the operator says it does; the integers agree, the rest is float32. */
async function checkProduct(set: string, shape: ProductShape & { rows: number }): Promise<void> {
  const { inFeatures, outFeatures, blockSize, rows } = shape;
  const { session, run, codes, scales, blocks } = await productSession(set, shape, ["rows", "k"]);
  const x = Float32Array.from({ length: rows * inFeatures }, (_, i) => Math.sin(i * 0.7) * (1 + i % 5));
  const y = await run(x, [rows, inFeatures]);
  session.close();
  for (let row = 0; row < rows; row++) {
    for (let n = 0; n < outFeatures; n++) {
      let [sum, size] = [0, 0];
      for (let block = 0; block < blocks; block++) {
        const values = x.subarray(row * inFeatures).subarray(
          block * blockSize,
          Math.min((block + 1) * blockSize, inFeatures),
        );
        const greatest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const inverse = Math.fround(127 / greatest);
        let dot = 0;
        values.forEach((value, i) => {
          const byte = codes[((n * blocks + block) * blockSize + i) >> 1]!;
          const code = (i % 2 === 0 ? byte & 15 : byte >> 4) - 8;
          dot += code * roundHalfToEven(Math.fround(value * inverse));
        });
        const term = dot * scales[n * blocks + block]! * Math.fround(greatest / 127);
        sum += term;
        size += Math.abs(term);
      }
      ok(Math.abs(y[row * outFeatures + n]! - sum) <= 1e-6 * (size + 1), `row ${row}, output ${n}`);
    }
  }
}

function roundHalfToEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

async function withEnvironment(name: string, value: string, body: () => Promise<void>): Promise<void> {
  const before = Deno.env.get(name);
  Deno.env.set(name, value);
  try {
    await body();
  } finally {
    if (before === undefined) Deno.env.delete(name);
    else Deno.env.set(name, before);
  }
}
