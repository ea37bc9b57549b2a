/**
 * Lets a checkpoint tell stories, to be read or to be learned from.
 *
 *     deno run -A compression/training/sample_stories.ts --checkpoint DIR --out FILE [--stories N] [--prompt TEXT]
 *
 * The stories have `<|endoftext|>` between them; those that do not end within the model's context are left out. The same
 * seed gives the same stories.
 */

import { parseArgs } from "node:util";
import { openCheckpoint } from "../../models/checkpoint.ts";
import { Tokenizer } from "../../models/tokenizer.ts";
import { openRuntime } from "../../onnx/mod.ts";
import { densePlan } from "../../models/block_tensors.ts";
import { constantWeights, packedParameters } from "./checkpoint_weights.ts";
import { LockstepDecoder } from "./lockstep_decoder.ts";
import { randomFor } from "./random.ts";
import { END_OF_TEXT } from "./stories.ts";

/** Stories that are told at once. */
const SEQUENCES = 128;

/** Draws a token at a temperature from the most likely ones that together have the probability `topP`. */
export function sampleToken(
  logits: Float32Array,
  { temperature, topP, random }: { temperature: number; topP: number; random: () => number },
): number {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const weights = logits.map((logit) => Math.exp((logit - top) / temperature));
  const total = weights.reduce((a, b) => a + b);
  let [least, kept] = [0, total];
  if (topP < 1) {
    const sorted = weights.toSorted();
    let dropped = 0;
    let at = 0;
    while (dropped + sorted[at]! <= (1 - topP) * total) dropped += sorted[at++]!;
    least = sorted[at]!;
    kept = sorted.subarray(at).reduce((a, b) => a + b);
  }
  let draw = random() * kept;
  let last = 0;
  for (let id = 0; id < weights.length; id++) {
    if (weights[id]! < least) continue;
    last = id;
    draw -= weights[id]!;
    if (draw < 0) break;
  }
  return last; // the last one too where rounding leaves a rest
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      checkpoint: { type: "string" },
      out: { type: "string" },
      stories: { type: "string", default: "8" },
      prompt: { type: "string", default: "" },
      temperature: { type: "string", default: "0.7" },
      "top-p": { type: "string", default: "0.95" },
      seed: { type: "string", default: "1" },
      threads: { type: "string", default: String(navigator.hardwareConcurrency) },
    },
  });
  if (values.checkpoint === undefined || values.out === undefined) {
    console.error("Cannot tell stories: --checkpoint DIR and --out FILE are wanted");
    Deno.exit(1);
  }
  const wanted = Number(values.stories);
  const [temperature, topP] = [Number(values.temperature), Number(values["top-p"])];

  using checkpoint = await openCheckpoint(values.checkpoint);
  const { description: { config }, tokenizer: files } = checkpoint;
  const tokenizer = new Tokenizer(files!);
  const plan = densePlan(checkpoint.description);
  const prompt = tokenizer.encode(values.prompt, { addSpecialTokens: true });
  if (prompt.length === 0) prompt.push(config.bosTokenId!);
  const ends = new Set([...config.eosTokenIds, config.bosTokenId]);
  const maxTokens = config.maxPositionEmbeddings;
  const sequences = Math.min(SEQUENCES, wanted);
  using decoder = await LockstepDecoder.open(openRuntime(), {
    plan,
    weights: constantWeights(await packedParameters(checkpoint, plan), plan),
    sequences,
    capacity: maxTokens,
    threads: Number(values.threads),
  });

  using out = await Deno.open(values.out, { write: true, create: true, truncate: true });
  const encoder = new TextEncoder();
  let told = 0;
  for (let first = 0; first < wanted; first += sequences) {
    const stories = Array.from({ length: Math.min(sequences, wanted - first) }, (_, i) => ({
      ids: [...prompt],
      ended: false,
      random: randomFor(Number(values.seed), "stories", first + i),
    }));
    for (let position = 0; position < maxTokens - 1 && stories.some(({ ended }) => !ended); position++) {
      stories.forEach(({ ids }, i) => decoder.tokens[i] = BigInt(ids[position] ?? 0));
      await decoder.step(position);
      if (position + 1 < prompt.length) continue;
      for (const [i, story] of stories.entries()) {
        if (story.ended) continue;
        const logits = decoder.logits.subarray(i * config.vocabSize, (i + 1) * config.vocabSize);
        const id = sampleToken(logits, { temperature, topP, random: story.random });
        if (ends.has(id)) story.ended = true;
        else story.ids.push(id);
      }
    }
    const complete = stories.filter(({ ended }) => ended);
    for (const { ids } of complete) {
      await out.write(encoder.encode(`${tokenizer.decode(ids)}\n${END_OF_TEXT}\n`));
    }
    told += complete.length;
    console.log(`${told} stories of ${first + stories.length} begun`);
  }
}
