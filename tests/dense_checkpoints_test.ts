import { describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { openCheckpoint } from "../models/checkpoint.ts";
import { denseLogits } from "../models/dense_model.ts";
import { densePerplexity } from "../models/perplexity.ts";
import { openRuntime } from "../onnx/mod.ts";
import { sharedData } from "./support/shared_data.ts";

const stories = sharedData("models/stories260K");
const qwen = sharedData("models/tiny-random/qwen2");

describe("A dense checkpoint", () => {
  if (stories !== null) {
    it("stories260K gives its expected logits and perplexity", async () => {
      const expected = JSON.parse(await Deno.readTextFile(`${stories}/expected.json`));
      using checkpoint = await openCheckpoint(stories);
      const { ids, perplexity } = expected.perplexity as { ids: number[]; perplexity: number };
      const windows = Array.from({ length: 8 }, (_, i) => Int32Array.of(1, ...ids.slice(500 * i, 500 * (i + 1))));
      const found = await densePerplexity(openRuntime(), checkpoint, windows, { threads: 2 });
      equal(found.tokens, 4000);
      ok(Math.abs(found.perplexity / perplexity - 1) < 1e-5, `${found.perplexity}, expected ${perplexity}`);
    });
  }
  if (qwen !== null) {
    it("of the Qwen family gives its expected logits", async () => {
      const { input_ids, logits } = JSON.parse(await Deno.readTextFile(`${qwen}/expected.json`)) as {
        input_ids: number[];
        logits: number[][];
      };
      using checkpoint = await openCheckpoint(qwen);
      let found: Float32Array | undefined;
      await denseLogits(openRuntime(), checkpoint, [Int32Array.from(input_ids)], (l) => found = l, { threads: 1 });
      const errors = logits.flat().map((value, i) => Math.abs(value - found![i]!));
      equal(errors.length, found!.length);
      ok(Math.max(...errors) < 1e-4, `largest difference ${Math.max(...errors)}`);
    });
  }
});
