import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { openRuntime } from "../onnx/mod.ts";
import { ReferenceDecoder } from "../tests/support/reference_decoder.ts";
import { TINY_BAMBA, TINY_LLAMA, TINY_MAMBA2, TINY_NEMOTRON_H, TINY_QWEN } from "../tests/support/tiny_models.ts";
import { type Artefact, openArtefact } from "./artefact.ts";
import { type Decoder, openDecoder, type Sequence } from "./decoder.ts";
import { type RandomArtefactOptions, writeRandomArtefact } from "./random_artefact.ts";
import type { BlockPlan } from "./plan.ts";
import { PRUNING_RATES } from "./widths.ts";

const TOKENS = [5, 90, 17, 3, 3, 44, 61, 8, 23, 70, 11];
const LEVELS = PRUNING_RATES.map((_, level) => level);

const MODELS: Readonly<Record<string, Pick<RandomArtefactOptions, "config" | "attentionBiases" | "layers">>> = {
  llama: { config: TINY_LLAMA },
  qwen2: { config: TINY_QWEN, attentionBiases: true },
  mamba2: { config: TINY_MAMBA2 },
  "nemotron-h": { config: TINY_NEMOTRON_H, layers: [["mamba"], ["mlp"], ["attention"], ["mamba"]] },
  bamba: { config: TINY_BAMBA, layers: [["mamba", "gatedMlp"], ["attention", "gatedMlp"]] },
};

for (const [name, model] of Object.entries(MODELS)) {
  const { config } = model;
  describe(`Decoder of a tiny ${name}`, () => {
    let folder: string;
    let artefact: Artefact;
    let exact: Decoder;
    let reference: ReferenceDecoder;

    beforeAll(async () => {
      folder = await Deno.makeTempDir();
      await writeRandomArtefact(folder, { ...model, blockSize: 32, seed: 7 });
      artefact = await openArtefact(folder);
      exact = await openTiny(artefact, 0);
      reference = await ReferenceDecoder.open(artefact);
    });
    afterAll(async () => {
      exact.close();
      await Deno.remove(folder, { recursive: true });
    });

    it("slices what the reference masks, at every level", async () => {
      for (const level of LEVELS) {
        const [logits] = await alone(exact, level, [TOKENS]);
        const expected = reference.logits(TOKENS, level);
        closeTo(logits!, expected.flatMap((row) => [...row]), 2e-5);
      }
    });

    it("gives different levels different answers", async () => {
      const seen = new Set<string>();
      for (const level of LEVELS) {
        const [logits] = await alone(exact, level, [TOKENS]);
        seen.add(logits!.slice(0, 8).join());
      }
      const widths = (block: BlockPlan, level: number) =>
        block.kind === "mamba" ? [block.widths[level], block.stateWidths[level]] : [block.widths[level]];
      const distinct = new Set(LEVELS.map((level) => artefact.plan.layers.flat().map((b) => widths(b, level)).join()));
      equal(seen.size, distinct.size);
      ok(distinct.size >= 5);
    });

    it("decodes with its cache what a full forward gives", async () => {
      for (const level of LEVELS) {
        const [whole] = await alone(exact, level, [TOKENS]);
        const steps = await alone(exact, level, TOKENS.map((token) => [token]));
        const chunked = await alone(exact, level, [TOKENS.slice(0, 4), TOKENS.slice(4, 9), TOKENS.slice(9)]);
        closeTo(concat(steps), [...whole!], 1e-5);
        closeTo(concat(chunked), [...whole!], 1e-5);
      }
    });

    it("gives a sequence among others, at mixed levels and lengths, what it gets alone", async () => {
      const served = await openTiny(artefact, 4);
      try {
        const rows = [{ level: 7, tokens: TOKENS }, { level: 0, tokens: TOKENS.slice(2) }, { level: 3, tokens: [9] }];
        const expected: Float32Array[] = [];
        for (const { level, tokens } of rows) expected.push((await alone(served, level, [tokens]))[0]!);
        const sequences = rows.map(({ level }) => served.openSequence(level));
        const logits = (await served.step(
          rows.map(({ tokens }, i) => ({ sequence: sequences[i]!, tokens, logits: "all" as const })),
        )).map((view) => view.slice());
        logits.forEach((row, i) => closeTo(row, [...expected[i]!], 1e-5));
        // Then all decode a token, in another order.
        const next = await served.step(
          [2, 0, 1].map((i) => ({ sequence: sequences[i]!, tokens: [33], logits: "last" as const })),
        );
        const mixed = next.map((view) => view.slice());
        for (const sequence of sequences) sequence.close();
        for (const [at, i] of [2, 0, 1].entries()) {
          const [, single] = await alone(served, rows[i]!.level, [rows[i]!.tokens, [33]]);
          closeTo(mixed[at]!, [...single!], 1e-5);
        }
      } finally {
        served.close();
      }
    });

    it("goes on narrower as if the tail of what it remembers were masked, or says that it cannot", async () => {
      const sequence = exact.openSequence(0);
      if (!exact.narrows) {
        throws(() => sequence.narrow(3), /Mamba/);
        return sequence.close();
      }
      const pieces = [{ level: 0, tokens: TOKENS.slice(0, 5) }, { level: 3, tokens: TOKENS.slice(5, 7) }, {
        level: 7,
        tokens: TOKENS.slice(7),
      }];
      const found: Float32Array[] = [];
      for (const { level, tokens } of pieces) {
        if (level > 0) sequence.narrow(level);
        equal(sequence.level, level);
        found.push((await exact.step([{ sequence, tokens, logits: "all" }]))[0]!.slice());
      }
      throws(() => sequence.narrow(7), /at level 7 to 7/);
      throws(() => sequence.narrow(8), /7 is the narrowest/);
      sequence.close();
      throws(() => sequence.narrow(7), /after it was closed/);
      const expected = reference.logits(TOKENS, pieces.flatMap(({ level, tokens }) => tokens.map(() => level)));
      closeTo(concat(found), expected.flatMap((row) => [...row]), 2e-5);
    });

    it("keeps its state when a step is cancelled, and its slots when sequences come and go", async () => {
      const sequence = exact.openSequence(0);
      const stopped = AbortSignal.abort();
      await rejects(exact.step([{ sequence, tokens: TOKENS, logits: "last" }], stopped), { name: "AbortError" });
      equal(sequence.length, 0);
      const [logits] = await exact.step([{ sequence, tokens: TOKENS, logits: "all" }]);
      const repeated = logits!.slice();
      sequence.close();
      sequence.close();
      deepEqual(repeated, (await alone(exact, 0, [TOKENS]))[0]);
      for (let i = 0; i < 20; i++) exact.openSequence(i % 8).close();
      const all: Sequence[] = Array.from({ length: 3 }, (_, level) => exact.openSequence(level));
      throws(() => exact.openSequence(0), /all 3 slots are taken/);
      for (const open of all) open.close();
    });

    it("goes on after a failed step only where no state can have been overwritten", async () => {
      const sequence = exact.openSequence(2);
      const step = (token: number) => exact.step([{ sequence, tokens: [token], logits: "last" }]);
      await rejects(step(config.vocabSize), { name: "OrtError" });
      if (config.mamba === undefined) equal((await step(3))[0]!.length, config.vocabSize);
      else await rejects(step(3), /its states are lost/);
      sequence.close();
    });

    it("lets a sequence be closed after the step that it could not be closed in", async () => {
      const sequence = exact.openSequence(0);
      const step = exact.step([{ sequence, tokens: TOKENS, logits: "last" }]);
      throws(() => sequence.close(), TypeError);
      await step;
      sequence.close();
      equal(exact.freeSlots, 3);
    });

    it("refuses steps that it cannot hold", async () => {
      const sequence = exact.openSequence(1);
      const step = (tokens: number[]) => exact.step([{ sequence, tokens, logits: "last" }]);
      await rejects(step([]), /without tokens/);
      await rejects(step(Array(40).fill(1)), /a step holds 32/);
      await rejects(exact.step([]), /0 sequences/);
      await step(Array(32).fill(1));
      await step(Array(32).fill(1));
      await rejects(step([1]), /its cache holds 64/);
      sequence.close();
      await rejects(step([1]), /after it was closed/);
      throws(() => exact.openSequence(8), /levels 0 to 7/);
    });
  });
}

/** `accuracy` 0 computes in float32; 4 is what serves, with activations rounded to int8. */
function openTiny(artefact: Artefact, accuracy: 0 | 4): Promise<Decoder> {
  return openDecoder(openRuntime(), {
    plan: artefact.plan,
    weights: artefact.weights({ accuracy }),
    folder: artefact.folder,
    lanes: 3,
    maxTokens: 64,
    maxRows: 32,
    threads: 1,
  });
}

/** Logits of all tokens of one sequence, given in pieces. */
async function alone(decoder: Decoder, level: number, pieces: readonly number[][]): Promise<Float32Array[]> {
  const sequence = decoder.openSequence(level);
  const results: Float32Array[] = [];
  for (const tokens of pieces) {
    results.push((await decoder.step([{ sequence, tokens, logits: "all" }]))[0]!.slice());
  }
  sequence.close();
  return results;
}

function concat(parts: readonly Float32Array[]): number[] {
  return parts.flatMap((part) => [...part]);
}

/** The largest difference, as a share of the largest expected value. */
function closeTo(actual: ArrayLike<number>, expected: readonly number[], tolerance: number): void {
  equal(actual.length, expected.length);
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  const error = expected.reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i]!)), 0) / scale;
  ok(error <= tolerance, `relative error ${error}, allowed ${tolerance}`);
}
