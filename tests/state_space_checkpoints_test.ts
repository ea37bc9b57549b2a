import { describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { openCheckpoint } from "../models/checkpoint.ts";
import { openDecoder } from "../models/decoder.ts";
import { denseLogits } from "../models/dense_model.ts";
import { SafetensorsWriter } from "../models/safetensors_writer.ts";
import { openRuntime } from "../onnx/mod.ts";
import { checkpointWeights } from "./support/float_weights.ts";
import { sharedData } from "./support/shared_data.ts";

/** Of the largest logit, in float32. */
const TOLERANCE = 1e-4;

/** Checkpoints and their logits by the transformers library; `fixtures/state_space/make.py` made them. */
const FIXTURES = ["mamba2_one_group", "mamba2_two_groups", "nemotron_h", "bamba_one_group", "bamba_two_groups"];

const checkpoints: [name: string, path: string, logits: string][] = FIXTURES.map((name) => [
  `${name} of transformers`,
  new URL(`fixtures/state_space/${name}`, import.meta.url).pathname,
  "logits",
]);
for (
  const [name, logits] of [["mamba2", "logits_grouped_norm"], ["nemotron_h", "logits"], ["bamba", "logits"]] as const
) {
  const path = sharedData(`models/tiny-random/${name}`);
  if (path !== null) checkpoints.push([`tiny-random ${name}`, path, logits]);
}

describe("A checkpoint with Mamba blocks", () => {
  for (const [name, path, key] of checkpoints) {
    const expected = JSON.parse(Deno.readTextFileSync(`${path}/expected.json`));
    const tokens: number[] = expected.input_ids;
    const logits: number[] = expected[key].flat();

    it(`${name} gives its expected logits as a whole sequence, layer by layer`, async () => {
      using checkpoint = await openCheckpoint(path);
      let found: Float32Array | undefined;
      await denseLogits(openRuntime(), checkpoint, [Int32Array.from(tokens)], (l) => found = l, { threads: 1 });
      closeTo(found!, logits);
    });

    it(`${name} gives them in the serving graph: whole, in pieces, and token by token beside another`, async () => {
      using checkpoint = await openCheckpoint(path);
      const { plan, weights } = await checkpointWeights(checkpoint);
      const options = { plan, weights, folder: path, maxTokens: 32, maxRows: 32, threads: 1 };
      using single = await openDecoder(openRuntime(), { ...options, lanes: 1 });
      using batch = await openDecoder(openRuntime(), { ...options, lanes: 3 });
      for (const decoder of [single, batch]) {
        for (const cuts of [[tokens.length], [8, 3], [1]]) {
          const sequence = decoder.openSequence(0);
          const found: number[] = [];
          for (let start = 0, piece = 0; start < tokens.length; piece++) {
            const end = start + cuts[Math.min(piece, cuts.length - 1)]!;
            const [rows] = await decoder.step([{ sequence, tokens: tokens.slice(start, end), logits: "all" }]);
            found.push(...rows!);
            start = end;
          }
          sequence.close();
          closeTo(found, logits);
        }
      }
      const sequences = [batch.openSequence(0), batch.openSequence(0)];
      const found: number[] = [];
      for (const [at, token] of tokens.entries()) {
        const [, rows] = await batch.step([
          { sequence: sequences[0]!, tokens: [tokens.at(-1 - at)!], logits: "last" },
          { sequence: sequences[1]!, tokens: [token], logits: "last" },
        ]);
        found.push(...rows!);
      }
      closeTo(found, logits);
    });
  }

  it("can have its skip per channel: the same one for all of a head is what it is per head", async () => {
    const path = new URL("fixtures/state_space/mamba2_two_groups", import.meta.url).pathname;
    const { input_ids } = JSON.parse(await Deno.readTextFile(`${path}/expected.json`));
    const folder = await Deno.makeTempDir();
    try {
      const all = [];
      for (const change of [(value: number) => value, (value: number, i: number) => value + (i % 16 === 3 ? 1 : 0)]) {
        await writeSkipPerChannel(path, folder, change);
        using checkpoint = await openCheckpoint(folder);
        const { plan, weights } = await checkpointWeights(checkpoint);
        const options = { plan, weights, folder, lanes: 2, maxTokens: 32, maxRows: 32, threads: 1 };
        using decoder = await openDecoder(openRuntime(), options);
        const [served] = await decoder.step([{ sequence: decoder.openSequence(0), tokens: input_ids, logits: "all" }]);
        let dense: Float32Array | undefined;
        await denseLogits(openRuntime(), checkpoint, [Int32Array.from(input_ids)], (l) => dense = l, { threads: 1 });
        closeTo(served!, [...dense!]);
        all.push(dense!);
      }
      const expected = JSON.parse(await Deno.readTextFile(`${path}/expected.json`)).logits.flat();
      closeTo(all[0]!, expected);
      ok(all[1]!.some((value, i) => Math.abs(value - expected[i]) > 0.01), "one channel's skip changes nothing");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

/** Copies a Mamba2 checkpoint with a skip of its own for every channel, made from its head's. */
async function writeSkipPerChannel(
  from: string,
  to: string,
  change: (value: number, channel: number) => number,
): Promise<void> {
  using checkpoint = await openCheckpoint(from);
  const { numHeads, headDim } = checkpoint.description.config.mamba!;
  await Deno.writeTextFile(`${to}/config.json`, JSON.stringify({ ...checkpoint.rawConfig, D_has_hdim: true }));
  const entries = [...checkpoint.tensors].map(([name, { shape }]) => ({
    name,
    dtype: "F32" as const,
    shape: name.endsWith(".D") ? [numHeads * headDim] : shape,
  }));
  using writer = await SafetensorsWriter.create(`${to}/model.safetensors`, entries);
  for (const { name } of entries) {
    const data = await checkpoint.read(name);
    const perChannel = () =>
      Float32Array.from({ length: numHeads * headDim }, (_, i) => change(data[Math.floor(i / headDim)]!, i));
    await writer.write(name, name.endsWith(".D") ? perChannel() : data);
  }
  await writer.finish();
}

function closeTo(actual: ArrayLike<number>, expected: readonly number[]): void {
  equal(actual.length, expected.length);
  const largest = Math.max(...expected.map(Math.abs));
  const error = Math.max(...expected.map((value, i) => Math.abs(value - actual[i]!))) / largest;
  ok(error < TOLERANCE, `relative error ${error}`);
}
