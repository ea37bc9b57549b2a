import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { ok, throws } from "node:assert/strict";
import { ElementType, openRuntime } from "../onnx/mod.ts";
import { TINY_BAMBA, TINY_LLAMA, TINY_QWEN } from "../tests/support/tiny_models.ts";
import { type Artefact, openArtefact } from "./artefact.ts";
import { Decoder, openDecoder } from "./decoder.ts";
import { relativeError } from "./device_probe.ts";
import { decoderGraph } from "./graph/decoder.ts";
import { LaneMemory } from "./lane_memory.ts";
import { cpuPlace } from "./lane_place.ts";
import { type RandomArtefactOptions, writeRandomArtefact } from "./random_artefact.ts";
import { PRUNING_RATES } from "./widths.ts";

const TOKENS = [5, 90, 17, 3, 3, 44, 61, 8, 23, 70, 11];
const LEVELS = PRUNING_RATES.map((_, level) => level);
const BOUND = 1e-2;
const SIZES = { lanes: 3, maxTokens: 64, maxRows: 32, threads: 1 };

const MODELS: Readonly<Record<string, Pick<RandomArtefactOptions, "config" | "attentionBiases" | "blockSize">>> = {
  llama: { config: TINY_LLAMA, blockSize: 32 },
  "qwen2, with biases": { config: TINY_QWEN, attentionBiases: true, blockSize: 32 },
  "llama with heads of 128": {
    config: { ...TINY_LLAMA, hiddenSize: 512, intermediateSize: 1408, headDim: 128, vocabSize: 1000 },
    blockSize: 128,
  },
};

const runtime = openRuntime();

for (const [name, model] of Object.entries(MODELS)) {
  // On the CPU, whose operators take half precision, too.
  describe(`Stock operators in half precision, on a ${name}`, () => {
    let folder: string;
    let half: Decoder;
    let exact: Decoder;

    beforeAll(async () => {
      folder = await Deno.makeTempDir();
      await writeRandomArtefact(folder, { ...model, seed: 7 });
      const artefact = await openArtefact(folder);
      half = await openHalf(artefact);
      const { plan } = artefact;
      exact = await openDecoder(runtime, { plan, weights: artefact.weights({ accuracy: 0 }), folder, ...SIZES });
    });
    afterAll(async () => {
      half.close();
      exact.close();
      await Deno.remove(folder, { recursive: true });
    });

    it("give nearly the logits of single precision at every rate, at once, in pieces and token by token", async () => {
      for (const level of LEVELS) {
        const expected = await logitsOf(exact, level, [TOKENS]);
        const ways = [
          [TOKENS],
          [TOKENS.slice(0, 4), TOKENS.slice(4, 9), TOKENS.slice(9)],
          TOKENS.map((token) => [token]),
        ];
        for (const pieces of ways) near(await logitsOf(half, level, pieces), expected);
      }
    });

    it("give sequences at different rates together what they get alone", async () => {
      const levels = [7, 0, 3];
      const sequences = levels.map((level) => half.openSequence(level));
      const logits: number[][] = levels.map(() => []);
      for (const piece of [TOKENS.slice(0, 6), ...TOKENS.slice(6).map((token) => [token])]) {
        const views = await half.step(
          sequences.map((sequence) => ({ sequence, tokens: piece, logits: "all" as const })),
        );
        views.forEach((view, index) => logits[index]!.push(...view));
      }
      for (const sequence of sequences) sequence.close();
      for (const [index, level] of levels.entries()) near(logits[index]!, await logitsOf(exact, level, [TOKENS]));
    });
  });
}

describe("decoderGraph()", () => {
  it("refuses Mamba blocks in half precision", async () => {
    const folder = await Deno.makeTempDir();
    try {
      await writeRandomArtefact(folder, {
        config: TINY_BAMBA,
        blockSize: 32,
        seed: 7,
        layers: [["mamba"], ["attention"]],
      });
      const { plan, weights } = await openArtefact(folder);
      throws(() => decoderGraph(plan, weights(), { lanes: 1, operators: "half" }), /Mamba blocks .* stock operators/);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

/** What serves on a CUDA device, in the CPU's memory. */
async function openHalf({ plan, weights, folder }: Artefact): Promise<Decoder> {
  const options = { plan, weights: weights(), folder, ...SIZES };
  const model = decoderGraph(plan, options.weights, { lanes: SIZES.lanes, operators: "half" });
  const session = await runtime.openSession({ model, threads: 1, folder });
  const place = cpuPlace(runtime, ElementType.float16);
  return new Decoder(
    session,
    new LaneMemory(runtime, session, { ...options, place, capacity: 64 }),
    options,
  );
}

/** Logits of all tokens of one sequence, given in pieces. */
async function logitsOf(decoder: Decoder, level: number, pieces: readonly (readonly number[])[]): Promise<number[]> {
  const sequence = decoder.openSequence(level);
  const logits: number[] = [];
  for (const tokens of pieces) logits.push(...(await decoder.step([{ sequence, tokens, logits: "all" }]))[0]!);
  sequence.close();
  return logits;
}

function near(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  const error = relativeError(actual, expected);
  ok(error <= BOUND, `relative error ${error}, allowed ${BOUND}`);
}
