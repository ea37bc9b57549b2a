/** `deno task generate`: one answer on stdout. */

import { z } from "zod";
import { PLAIN_SAMPLING, Sampler, SamplerScratch } from "../engine/mod.ts";
import { openArtefact } from "../models/artefact.ts";
import { Tokenizer } from "../models/tokenizer.ts";
import { checkTokens } from "../models/vocabulary.ts";
import { DeviceFlag } from "./device.ts";
import { parseFlags } from "./flags.ts";
import { levelOf } from "./level_of.ts";
import { physicalCores } from "./physical_cores.ts";
import { runCommand } from "./run_command.ts";
import { openSingleDecoder } from "./single_decoder.ts";

const Flags = z.strictObject({
  model: z.string().default("artifacts/demo").describe("Artefact"),
  prompt: z.string().min(1).describe("Text to go on from"),
  rate: z.number().min(0).max(1).default(0).describe("Pruning rate"),
  maxNewTokens: z.int().min(1).max(100_000).default(128).describe("Ends the answer after so many tokens"),
  temperature: z.number().min(0).max(10).default(0).describe("0 takes the likeliest token"),
  seed: z.int().min(0).max(2 ** 32 - 1).default(0).describe("Seed of the random choices"),
  device: DeviceFlag,
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads to compute with"),
});

/** Prompt tokens of one step. */
const CHUNK = 128;

await runCommand(async () => {
  const flags = parseFlags(Flags, Deno.args, {
    name: "deno task generate",
    summary: "Prints one answer of an artefact.",
  });
  const artefact = await openArtefact(flags.model);
  if (artefact.tokenizer === null) throw new RangeError(`Cannot read a prompt for ${flags.model}: it has no tokenizer`);
  const level = levelOf(artefact.levels, flags.rate);
  const tokenizer = new Tokenizer(artefact.tokenizer);
  const prompt = tokenizer.encode(flags.prompt, { addSpecialTokens: true });
  const { maxPositionEmbeddings, eosTokenIds, vocabSize } = artefact.plan.config;
  checkTokens(prompt, vocabSize);
  const maxTokens = prompt.length + flags.maxNewTokens;
  if (maxTokens > maxPositionEmbeddings) {
    throw new RangeError(
      `Cannot generate ${maxTokens} tokens, prompt included: the model holds ${maxPositionEmbeddings}`,
    );
  }
  const { device, threads } = flags;
  using decoder = await openSingleDecoder(artefact, { device, threads, maxTokens, maxRows: CHUNK });
  const sampler = new Sampler(
    { ...PLAIN_SAMPLING, temperature: flags.temperature, seed: flags.seed },
    prompt,
    new SamplerScratch(),
  );
  const sequence = decoder.openSequence(level);
  const stream = tokenizer.stream({ continues: true });
  const print = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(text));
  let next = prompt;
  for (let count = 0; count < flags.maxNewTokens; count++) {
    let logits: Float32Array | undefined;
    for (let start = 0; start < next.length; start += CHUNK) {
      [logits] = await decoder.step([{ sequence, tokens: next.slice(start, start + CHUNK), logits: "last" }]);
    }
    const { token } = sampler.sample(logits!);
    if (eosTokenIds.includes(token)) break;
    print(stream.push(token));
    next = [token];
  }
  print(`${stream.flush()}\n`);
  sequence.close();
});
