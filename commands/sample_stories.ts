/**
 * Lets a checkpoint tell stories, to be read or to be learned from (`train_demo.ts --first-text`).
 *
 *     deno run -A commands/sample_stories.ts --checkpoint DIR --out FILE [--stories N]
 *
 * The stories have `<|endoftext|>` between them; those that do not end within the model's context are left out. The same
 * seed gives the same stories, up to the order in which floats are added.
 */

import { z } from "zod";
import { parseFlags } from "./flags.ts";
import { runCommand } from "./run_command.ts";
import { densePlan } from "../models/block_tensors.ts";
import { openCheckpoint } from "../models/checkpoint.ts";
import { openDecoder, type Sequence } from "../models/decoder.ts";
import { Tokenizer } from "../models/tokenizer.ts";
import { openRuntime } from "../onnx/mod.ts";
import { constantWeights, packedParameters } from "../compression/training/checkpoint_weights.ts";
import { PLAIN_SAMPLING, Sampler, SamplerScratch } from "../engine/mod.ts";
import { END_OF_TEXT } from "../compression/training/stories.ts";

/** Stories that are told at once. */
const LANES = 32;

const Flags = z.strictObject({
  checkpoint: z.string().describe("Folder of the model"),
  out: z.string().describe("File for the stories"),
  stories: z.int().positive().default(8).describe("How many to begin"),
  temperature: z.number().positive().default(0.7).describe("Below 1: likely words become likelier"),
  topP: z.number().positive().max(1).default(0.95).describe("Draw from the likeliest words of this probability"),
  seed: z.int().nonnegative().default(1).describe("Seed of the draws"),
  threads: z.int().positive().default(navigator.hardwareConcurrency).describe("Threads to compute with"),
});

interface Telling {
  readonly sequence: Sequence;
  readonly ids: number[];
  readonly sampler: Sampler;
}

async function tell(
  { checkpoint: path, out, stories, temperature, topP, seed, threads }: z.output<typeof Flags>,
): Promise<void> {
  using checkpoint = await openCheckpoint(path);
  const { description, tokenizer: files } = checkpoint;
  const { bosTokenId, eosTokenIds, maxPositionEmbeddings: maxTokens } = description.config;
  if (files === null || bosTokenId === null) {
    throw new RangeError(
      `Cannot tell stories with ${path}: it names no ${files === null ? "tokenizer" : "first token"}`,
    );
  }
  const tokenizer = new Tokenizer(files);
  const ends = new Set([...eosTokenIds, bosTokenId]);
  const plan = densePlan(description);
  using decoder = await openDecoder(openRuntime(), {
    plan,
    weights: constantWeights(await packedParameters(checkpoint, plan), plan),
    folder: path,
    lanes: LANES,
    maxTokens,
    maxRows: LANES,
    threads,
  });

  using file = await Deno.open(out, { write: true, create: true, truncate: true });
  const writer = file.writable.getWriter();
  const encoder = new TextEncoder();
  const scratch = new SamplerScratch();
  const sampling = { ...PLAIN_SAMPLING, temperature, topP };
  let [begun, told] = [0, 0];
  let telling: Telling[] = [];
  while (begun < stories || telling.length > 0) {
    while (begun < stories && telling.length < LANES) {
      const sampler = new Sampler({ ...sampling, seed: seed + begun++ }, [], scratch);
      telling.push({ sequence: decoder.openSequence(0), ids: [bosTokenId], sampler });
    }
    const logits = await decoder.step(
      telling.map(({ sequence, ids }) => ({ sequence, tokens: [ids.at(-1)!], logits: "last" })),
    );
    const going: Telling[] = [];
    for (const [lane, story] of telling.entries()) {
      const id = story.sampler.sample(logits[lane]!).token;
      if (!ends.has(id) && story.ids.length < maxTokens) {
        story.ids.push(id);
        going.push(story);
        continue;
      }
      story.sequence.close();
      if (!ends.has(id)) continue;
      await writer.write(encoder.encode(`${tokenizer.decode(story.ids)}\n${END_OF_TEXT}\n`));
      if (++told % 100 === 0) console.log(`${told} stories of ${begun} begun`);
    }
    telling = going;
  }
  await writer.close();
  console.log(`${told} stories of ${begun} ended within ${maxTokens} tokens`);
}

if (import.meta.main) {
  await runCommand(() =>
    tell(parseFlags(Flags, Deno.args, {
      name: "deno run -A commands/sample_stories.ts",
      summary: "Lets a checkpoint tell stories.",
    }))
  );
}
