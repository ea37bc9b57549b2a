/**
 * A CUDA device against the CPU, on a machine with both: `deno run --allow-all tests/gpu/logits.ts`.
 *
 * Every family at every rate, as whole prompts, in pieces, token by token and in mixed batches: logits may part from those
 * of the CPU in float32 by 1e-2, relative to their norm. The demo's greedy answers have to be the same. Fails with 1.
 */

import { chooseDevice, describeDevice } from "../../commands/device.ts";
import { openKernels } from "../../kernels/native_library.ts";
import { table } from "../../commands/text_table.ts";
import { type Artefact, openArtefact } from "../../models/artefact.ts";
import { type Decoder, openDecoder, type StepEntry } from "../../models/decoder.ts";
import { relativeError } from "../../models/device_probe.ts";
import { type RandomArtefactOptions, writeRandomArtefact } from "../../models/random_artefact.ts";
import { Tokenizer } from "../../models/tokenizer.ts";
import { cudaDevice, openRuntime } from "../../onnx/mod.ts";
import { TINY_BAMBA, TINY_LLAMA, TINY_MAMBA2, TINY_NEMOTRON_H, TINY_QWEN } from "../support/tiny_models.ts";

const BOUND = 1e-2;
const [LANES, PROMPT, DECODED, GREEDY] = [4, 44, 8, 64] as const;
const PROMPT_TEXT = "Once upon a time, there was a little";

/** Heads of 64 and 128, blocks of 128, many rows: shapes that the real models have, in few layers. */
const WIDE_LLAMA: RandomArtefactOptions["config"] = {
  ...TINY_LLAMA,
  hiddenSize: 1024,
  intermediateSize: 2816,
  numAttentionHeads: 8,
  headDim: 128,
  vocabSize: 4000,
};
const WIDE_BAMBA: RandomArtefactOptions["config"] = {
  ...TINY_BAMBA,
  hiddenSize: 512,
  intermediateSize: 1408,
  numAttentionHeads: 8,
  headDim: 64,
  mamba: { ...TINY_BAMBA.mamba!, numHeads: 16, headDim: 64, stateSize: 128, chunkSize: 256 },
  rope: { theta: 10_000, scaling: null, rotaryDim: 32 },
  vocabSize: 4000,
};

const MODELS: Readonly<
  Record<string, Pick<RandomArtefactOptions, "config" | "attentionBiases" | "layers" | "blockSize">>
> = {
  llama: { config: TINY_LLAMA, blockSize: 32 },
  qwen2: { config: TINY_QWEN, attentionBiases: true, blockSize: 32 },
  mamba2: { config: TINY_MAMBA2, blockSize: 32 },
  "nemotron-h": { config: TINY_NEMOTRON_H, layers: [["mamba"], ["mlp"], ["attention"], ["mamba"]], blockSize: 32 },
  bamba: { config: TINY_BAMBA, layers: [["mamba", "gatedMlp"], ["attention", "gatedMlp"]], blockSize: 32 },
  "wide llama": { config: WIDE_LLAMA, blockSize: 128 },
  "wide bamba": { config: WIDE_BAMBA, layers: [["mamba", "gatedMlp"], ["attention", "gatedMlp"]], blockSize: 64 },
};

const runtime = openRuntime();
const cuda = await chooseDevice("cuda", runtime);
const native = (await openKernels()).kernels?.path ?? null;
console.log(describeDevice(cuda));

/** Every way to run a prompt and some tokens after it: the CPU's in one piece are what the others are held against. */
interface Decoders {
  readonly cuda: Decoder;
  readonly exact: Decoder;
  /** Our operators for the CPU, which round activations to int8. */
  readonly native: Decoder;
}

async function open(artefact: Artefact, maxTokens: number): Promise<Decoders> {
  const options = { plan: artefact.plan, folder: artefact.folder, lanes: LANES, maxTokens, maxRows: 96, threads: 0 };
  return {
    cuda: await openDecoder(runtime, {
      ...options,
      weights: artefact.weights(),
      device: "cuda",
      operators: cuda.operators,
    }),
    exact: await openDecoder(runtime, { ...options, weights: artefact.weights({ accuracy: 0 }) }),
    native: await openDecoder(runtime, { ...options, weights: artefact.weights(), operators: native }),
  };
}

/** Logits of every token, given piece by piece. */
async function logitsOf(decoder: Decoder, level: number, pieces: readonly (readonly number[])[]): Promise<number[]> {
  const sequence = decoder.openSequence(level);
  const logits: number[] = [];
  try {
    for (const tokens of pieces) {
      const [piece] = await decoder.step([{ sequence, tokens, logits: "all" }]);
      for (const value of piece!) logits.push(value);
    }
  } finally {
    sequence.close();
  }
  return logits;
}

/** Sequences at several levels, of which some are fed prompts while others decode; logits of every token of each. */
async function mixedLogits(
  decoder: Decoder,
  levels: readonly number[],
  tokens: readonly number[],
): Promise<number[][]> {
  const sequences = levels.map((level) => decoder.openSequence(level));
  const logits: number[][] = levels.map(() => []);
  // The later a sequence, the longer its pieces: after the first steps some decode and some still read.
  const pieceOf = (index: number) => [1, 3, 9, 20][index]!;
  try {
    for (let open = sequences.map((_, index) => index); open.length > 0;) {
      const entries = open.map((index): StepEntry => {
        const sequence = sequences[index]!;
        return {
          sequence,
          tokens: tokens.slice(sequence.length, sequence.length + pieceOf(index)),
          logits: "all",
        };
      });
      const views = await decoder.step(entries);
      open.forEach((index, i) => views[i]!.forEach((value) => logits[index]!.push(value)));
      open = open.filter((index) => sequences[index]!.length < tokens.length);
    }
  } finally {
    for (const sequence of sequences) sequence.close();
  }
  return logits;
}

/** So many sequences decode together, as captured graphs; logits of every token of each. */
async function together(decoder: Decoder, levels: readonly number[], tokens: readonly number[]): Promise<number[][]> {
  const sequences = levels.map((level) => decoder.openSequence(level));
  const logits: number[][] = levels.map(() => []);
  try {
    for (const token of tokens) {
      const views = await decoder.step(
        sequences.map((sequence) => ({ sequence, tokens: [token], logits: "last" as const })),
      );
      views.forEach((view, index) => view.forEach((value) => logits[index]!.push(value)));
    }
  } finally {
    for (const sequence of sequences) sequence.close();
  }
  return logits;
}

/** Logits of the tokens after a sequence was narrowed. */
async function narrowed(decoder: Decoder, from: number, to: number, tokens: readonly number[]): Promise<number[]> {
  const sequence = decoder.openSequence(from);
  const half = tokens.length >> 1;
  try {
    await decoder.step([{ sequence, tokens: tokens.slice(0, half), logits: "none" }]);
    sequence.narrow(to);
    const [logits] = await decoder.step([{ sequence, tokens: tokens.slice(half), logits: "all" }]);
    return [...logits!];
  } finally {
    sequence.close();
  }
}

async function greedy(decoder: Decoder, level: number, prompt: readonly number[], count: number): Promise<number[]> {
  const sequence = decoder.openSequence(level);
  const answer: number[] = [];
  try {
    let next: readonly number[] = prompt;
    while (answer.length < count) {
      const [logits] = await decoder.step([{ sequence, tokens: next, logits: "last" }]);
      let best = 0;
      for (let i = 1; i < logits!.length; i++) if (logits![i]! > logits![best]!) best = i;
      // What the device says is the likeliest has to be it: the service does not look again.
      if ((decoder.likeliest(0) ?? best) !== best) {
        throw new Error(`The device says ${decoder.likeliest(0)}, not ${best}`);
      }
      answer.push(best);
      next = [best];
    }
  } finally {
    sequence.close();
  }
  return answer;
}

const rows: string[][] = [];
let failures = 0;

function judge(error: number): string {
  if (!(error <= BOUND)) failures++;
  return `${error.toExponential(1)}${error <= BOUND ? "" : " FAILED"}`;
}

async function compare(name: string, artefact: Artefact, decoders: Decoders): Promise<void> {
  const { vocabSize } = artefact.plan.config;
  const tokens = Array.from({ length: PROMPT + DECODED }, (_, i) => (i * i * 7 + 3 * i + 5) % vocabSize);
  const levels = artefact.levels.map((_, level) => level);
  const perLevel: number[][] = [];
  for (const level of levels) perLevel.push(await logitsOf(decoders.exact, level, [tokens]));

  const batch = [0, 2, 5, 7].map((level) => Math.min(level, levels.length - 1));
  const batches = async (run: typeof mixedLogits) => {
    const logits = await run(decoders.cuda, batch, tokens);
    return Math.max(...logits.map((own, index) => relativeError(own, perLevel[batch[index]!]!)));
  };
  const [mixed, decoded] = [await batches(mixedLogits), await batches(together)];
  for (const level of levels) {
    const exact = perLevel[level]!;
    const rest = tokens.slice(PROMPT).map((token) => [token]);
    const error = async (pieces: readonly (readonly number[])[]) =>
      relativeError(await logitsOf(decoders.cuda, level, pieces), exact);
    const narrow = decoders.cuda.narrows && level > 0
      ? judge(relativeError(
        await narrowed(decoders.cuda, 0, level, tokens),
        await narrowed(decoders.exact, 0, level, tokens),
      ))
      : "";
    rows.push([
      name,
      `${artefact.levels[level]!.pruningRate}`,
      judge(await error([tokens])),
      judge(await error([tokens.slice(0, 7), tokens.slice(7, 8), tokens.slice(8, 41), tokens.slice(41)])),
      judge(await error([tokens.slice(0, PROMPT), ...rest])),
      level === 0 ? judge(mixed) : "",
      level === 0 ? judge(decoded) : "",
      narrow,
      relativeError(await logitsOf(decoders.native, level, [tokens]), exact).toExponential(1),
    ]);
  }
}

async function compareGreedy(artefact: Artefact, decoders: Decoders): Promise<void> {
  const tokenizer = new Tokenizer(artefact.tokenizer!);
  const prompt = [...tokenizer.encode(PROMPT_TEXT, { addSpecialTokens: true })];
  for (const [level, { pruningRate }] of artefact.levels.entries()) {
    const [device, exact, own] = [
      await greedy(decoders.cuda, level, prompt, GREEDY),
      await greedy(decoders.exact, level, prompt, GREEDY),
      await greedy(decoders.native, level, prompt, GREEDY),
    ];
    const equal = (other: readonly number[]) => {
      const at = device.findIndex((token, i) => token !== other[i]);
      return at < 0 ? GREEDY : at;
    };
    if (equal(exact) < GREEDY) failures++;
    console.log(
      `demo at ${pruningRate}: ${equal(exact)} of ${GREEDY} greedy tokens as on the CPU in float32` +
        `${equal(exact) < GREEDY ? " FAILED" : ""}, ${equal(own)} as with its int8 activations`,
    );
  }
}

const folder = await Deno.makeTempDir();
try {
  for (const [name, options] of Object.entries(MODELS)) {
    if (cuda.operators === null && options.config.mamba !== undefined) {
      console.log(`${name}: left out, stock operators on a CUDA device run no Mamba blocks`);
      continue;
    }
    const path = `${folder}/${name.replace(" ", "-")}`;
    await writeRandomArtefact(path, { ...options, seed: 7 });
    const artefact = await openArtefact(path);
    const decoders = await open(artefact, 96);
    const before = cudaDevice().memory().free;
    await compare(name, artefact, decoders);
    const taken = before - cudaDevice().memory().free;
    if (taken !== 0) console.log(`${name}: steps took ${taken} bytes of the device's memory`);
    for (const decoder of Object.values(decoders)) decoder.close();
  }
  const demo = await openArtefact(new URL("../../artifacts/demo", import.meta.url).pathname);
  const decoders = await open(demo, 128);
  await compare("demo", demo, decoders);
  console.log(table([
    ...["model", "rate", "whole", "in pieces", "decoded", "mixed batch", "decoded together", "narrowed"],
    "int8 of the CPU",
  ], rows));
  await compareGreedy(demo, decoders);
  for (const decoder of Object.values(decoders)) decoder.close();
} finally {
  await Deno.remove(folder, { recursive: true });
}
console.log(failures === 0 ? "All within 1e-2" : `${failures} FAILED`);
Deno.exit(failures === 0 ? 0 : 1);
