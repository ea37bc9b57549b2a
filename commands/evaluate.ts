/** `deno task evaluate`: perplexity of a checkpoint or an artefact. */

import { z } from "zod";
import { type Artefact, isArtefact, openArtefact } from "../models/artefact.ts";
import { openCheckpoint } from "../models/checkpoint.ts";
import type { ModelConfig } from "../models/description.ts";
import {
  densePerplexity,
  elasticPerplexity,
  narrowedPerplexity,
  type Perplexity,
  perplexityRatio,
  type WindowedPerplexity,
  windowsOf,
} from "../models/perplexity.ts";
import { Tokenizer } from "../models/tokenizer.ts";
import type { TokenizerFiles } from "../models/tokenizer_files.ts";
import { checkTokens } from "../models/vocabulary.ts";
import { openRuntime } from "../onnx/mod.ts";
import { DeviceFlag } from "./device.ts";
import { parseFlags } from "./flags.ts";
import { physicalCores } from "./physical_cores.ts";
import { levelOf } from "./level_of.ts";
import { type ProgressBar, progressBar } from "./progress_bar.ts";
import { runCommand } from "./run_command.ts";
import { openSingleDecoder } from "./single_decoder.ts";

const Flags = z.strictObject({
  model: z.string().describe("Checkpoint or artefact"),
  text: z.string().describe("Text file to predict"),
  rate: z.number().min(0).max(1).optional().describe("Pruning rate of an artefact (default 0)"),
  narrowTo: z.number().min(0).max(1).optional()
    .describe("Larger rate of every window's second half, which alone counts then; beside it both rates throughout"),
  allRates: z.boolean().default(false).describe("Every prepared pruning rate"),
  sequenceLength: z.int().min(2).max(32_768).default(512).describe("Tokens of a window; the first is context only"),
  maxTokens: z.int().min(2).optional().describe("Take at most so many tokens of the text"),
  json: z.boolean().default(false).describe("Prints JSON"),
  device: DeviceFlag,
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads to compute with"),
});
type Flags = z.output<typeof Flags>;

interface Rates {
  readonly rate: number;
  /** Of each window's first half, where only second halves count. */
  readonly firstHalfRate?: number;
}

/** What is printed of one evaluation. */
interface Result extends Rates, Perplexity {
  /** How many times the first result's perplexity it is: 1 for that one itself. */
  readonly ratioToFirst: number;
  readonly ratioStandardError: number | null;
}

/** Rows of a step; more take more memory for logits and are no faster. */
const ROWS = 256;

await runCommand(async () => {
  const flags = parseFlags(Flags, Deno.args, {
    name: "deno task evaluate",
    summary: "Measures perplexity per token over consecutive windows of a text. A checkpoint is evaluated in float32.",
  });
  if (flags.allRates && flags.rate !== undefined) throw new RangeError("--all-rates and --rate: give one of them");
  if (flags.narrowTo !== undefined && (flags.allRates || flags.narrowTo <= (flags.rate ?? 0))) {
    throw new RangeError(`--narrow-to: ${flags.narrowTo} is not above one --rate`);
  }
  if (flags.narrowTo !== undefined && flags.sequenceLength < 3) {
    throw new RangeError(`--narrow-to: the second half of ${flags.sequenceLength} tokens has none to predict`);
  }
  const text = await Deno.readTextFile(flags.text);
  const windows = (tokenizer: TokenizerFiles | null, { maxPositionEmbeddings, vocabSize }: ModelConfig) => {
    if (tokenizer === null) throw new RangeError(`Cannot evaluate ${flags.model} on a text: it has no tokenizer`);
    if (flags.sequenceLength > maxPositionEmbeddings) {
      throw new RangeError(
        `Cannot evaluate windows of ${flags.sequenceLength} tokens: the model holds ${maxPositionEmbeddings}`,
      );
    }
    const tokens = new Tokenizer(tokenizer).encode(text, { addSpecialTokens: false });
    checkTokens(tokens, vocabSize);
    return windowsOf(tokens, {
      length: flags.sequenceLength,
      ...(flags.maxTokens !== undefined && { maxTokens: flags.maxTokens }),
    });
  };
  const measured: (Rates & WindowedPerplexity)[] = [];
  using bar = progressBar("evaluate");
  if (await isArtefact(flags.model)) {
    const artefact = await openArtefact(flags.model);
    const levels = flags.allRates
      ? artefact.levels.map((_, level) => level)
      : [levelOf(artefact.levels, flags.rate ?? 0)];
    const narrowLevel = flags.narrowTo === undefined ? null : levelOf(artefact.levels, flags.narrowTo);
    const cut = windows(artefact.tokenizer, artefact.plan.config);
    measured.push(...await evaluateArtefact(artefact, cut, { levels, narrowLevel, flags, bar }));
  } else {
    if (flags.allRates || (flags.rate ?? 0) !== 0 || flags.narrowTo !== undefined) {
      throw new RangeError(`Cannot evaluate ${flags.model} at a pruning rate: it is a dense checkpoint`);
    }
    if (flags.device === "cuda") {
      throw new RangeError(`Cannot evaluate ${flags.model} on a CUDA device: a dense checkpoint runs on the CPU`);
    }
    using checkpoint = await openCheckpoint(flags.model);
    const progress = (done: number, total: number) => bar.update(done / total, "layers");
    const options = { threads: flags.threads, progress };
    const cut = windows(checkpoint.tokenizer, checkpoint.description.config);
    const perplexity = await densePerplexity(openRuntime(), checkpoint, cut, options);
    measured.push({ rate: 0, ...perplexity });
  }
  bar[Symbol.dispose]();
  const results = measured.map(({ windows, ...perplexity }): Result => {
    const { ratio, standardError } = perplexityRatio({ windows }, measured[0]!);
    return { ...perplexity, ratioToFirst: ratio, ratioStandardError: standardError };
  });
  if (flags.json) console.log(JSON.stringify(results));
  else for (const [index, result] of results.entries()) console.log(line(result, index));
});

/**
 * Perplexity at each level; with one to narrow to, of second halves at the first level, narrowed to it, and at it throughout.
 *
 * @param cut Token ids of every window.
 * @throws {RangeError} If it is to be narrowed where the model's state cannot be.
 */
async function evaluateArtefact(
  artefact: Artefact,
  cut: readonly Int32Array[],
  { levels, narrowLevel, flags, bar }: {
    readonly levels: readonly number[];
    readonly narrowLevel: number | null;
    readonly flags: Flags;
    readonly bar: ProgressBar;
  },
): Promise<(Rates & WindowedPerplexity)[]> {
  const { device, threads, sequenceLength: maxTokens } = flags;
  using decoder = await openSingleDecoder(artefact, { device, threads, maxTokens, maxRows: Math.min(maxTokens, ROWS) });
  const found: (Rates & WindowedPerplexity)[] = [];
  if (narrowLevel !== null) {
    const [from, to] = [levels[0]!, narrowLevel];
    if (!decoder.narrows) {
      throw new RangeError("--narrow-to: the state of this model cannot be narrowed where it runs");
    }
    for (const [index, pair] of [{ from, to: from }, { from, to }, { from: to, to }].entries()) {
      const perplexity = await narrowedPerplexity(decoder, pair, cut, {
        progress: (done, total) => bar.update((index + done / total) / 3, "second halves"),
      });
      const [first, second] = [pair.from, pair.to].map((level) => artefact.levels[level]!.pruningRate);
      found.push({ rate: second!, firstHalfRate: first!, ...perplexity });
    }
    return found;
  }
  for (const [index, level] of levels.entries()) {
    const perplexity = await elasticPerplexity(decoder, level, cut, {
      progress: (done, total) =>
        bar.update((index + done / total) / levels.length, `rate ${artefact.levels[level]!.pruningRate}`),
    });
    found.push({ rate: artefact.levels[level]!.pruningRate, ...perplexity });
  }
  return found;
}

/** A result in a line; the first one is not compared with itself. */
function line(result: Result, index: number): string {
  const { rate, firstHalfRate, perplexity, standardError, tokens, ratioToFirst, ratioStandardError } = result;
  const rates = firstHalfRate === undefined ? rate.toFixed(2) : `${firstHalfRate.toFixed(2)}, then ${rate.toFixed(2)}`;
  const error = (of: number | null) => of === null ? "" : ` ± ${of.toFixed(4)}`;
  const compared = `, ${ratioToFirst.toFixed(4)}${error(ratioStandardError)} times the first`;
  return `rate ${rates}  perplexity ${perplexity.toFixed(4)}${error(standardError)}  over ${tokens} tokens` +
    (index === 0 ? "" : compared);
}
