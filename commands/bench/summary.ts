/** What `deno task bench` makes of its samples, and prints. */

import { median } from "../statistics.ts";
import { table } from "../text_table.ts";
import { BATCHES, CHUNKS, type CpuBenchFlags, type Samples, type Subject } from "./measure_cpu.ts";

export interface SummaryFlags extends CpuBenchFlags {
  /** Whose dimensions a random artefact has. */
  readonly shape?: string | undefined;
  readonly json: boolean;
}

/** What was measured of the elastic artefact: JSON, or a table and lines to read. */
export function formatSamples(
  elastic: Subject,
  samples: Samples,
  { flags, kernels }: { flags: SummaryFlags; kernels: string },
): string {
  const result = { ...summarize(elastic, samples, flags), kernels };
  return flags.json ? JSON.stringify(result, null, 2) : format(result);
}

function summarize({ artefact }: Subject, samples: Samples, flags: SummaryFlags) {
  const { plain } = samples;
  const read = median(samples.decode.flatMap(({ readLoop }) => readLoop));
  const wholeBytes = stepBytes(artefact.levels[0]!);
  return {
    model: flags.shape ?? artefact.name,
    threads: flags.threads,
    blockSize: artefact.blockSize,
    rounds: flags.rounds,
    prefillTokens: flags.prefillTokens,
    readLoopGBps: read / 1e9,
    elasticToPlain: plain.plain.length === 0 ? null : medianRatio(plain.elastic, plain.plain),
    batchSpeedups: BATCHES.map((sequences, i) => ({
      sequences,
      speedup: sequences / medianRatio(samples.batches[i]!, samples.one),
    })),
    /** How many times as long stock operators take. */
    stockToNative: samples.stock.decode.length === 0 ? null : {
      oneRow: medianRatio(samples.stock.decode, samples.one),
      batches: BATCHES.map((sequences, i) => ({
        sequences,
        ratio: medianRatio(samples.stock.batches[i]!, samples.batches[i]!),
      })),
      prefill: medianRatio(samples.stock.prefill, samples.prefill[0]!),
    },
    further: flags.prefillContext === undefined ? null : {
      behind: flags.prefillContext,
      ms: median(samples.further.own),
      stockToNative: samples.further.stock.length === 0
        ? null
        : medianRatio(samples.further.stock, samples.further.own),
    },
    rateChange: medianRatio(
      samples.inTurn.both,
      samples.inTurn.first.map((first, i) => (first + samples.inTurn.last[i]!) / 2),
    ),
    context: samples.contexts.long.length === 0 ? null : {
      short: flags.context,
      long: flags.longContext,
      longToShort: medianRatio(samples.contexts.long, samples.contexts.short),
    },
    levels: artefact.levels.map((variant, level) => {
      const { pruningRate, bytesPerToken, stateBytesPerSequence } = variant;
      const { own, first, readLoop } = samples.decode[level]!;
      const ms = median(own);
      const bytes = stepBytes(variant);
      const toWhole = medianRatio(own, first);
      return {
        pruningRate,
        decodeMs: ms,
        tokensPerSecond: 1000 / ms,
        bytesPerToken,
        stateBytesPerSequence,
        bytesPerStep: bytes,
        gigabytesPerSecond: bytes / ms / 1e6,
        shareOfReadLoop: median(own.map((sample, i) => bytes / (sample / 1000) / readLoop[i]!)),
        toPrediction: toWhole / (bytes / wholeBytes),
        /** The same by the bytes of weights alone. */
        toWeights: toWhole / (bytesPerToken / artefact.levels[0]!.bytesPerToken),
        prefillTokensPerSecond: flags.prefillTokens / (median(samples.prefill[level]!) / 1000),
      };
    }),
  };
}

/** What a decode step of one sequence moves: it reads its weights, and reads and writes its states. */
function stepBytes(
  { bytesPerToken, stateBytesPerSequence }: { bytesPerToken: number; stateBytesPerSequence: number },
): number {
  return bytesPerToken + 2 * stateBytesPerSequence;
}

function format(result: ReturnType<typeof summarize> & { kernels: string }): string {
  const rows = result.levels.map((level) => [
    `${Math.round(level.pruningRate * 100)} %`,
    level.decodeMs.toFixed(2),
    level.tokensPerSecond.toFixed(1),
    (level.bytesPerStep / 1e6).toFixed(1),
    (level.stateBytesPerSequence / 1e6).toFixed(1),
    level.gigabytesPerSecond.toFixed(1),
    `${Math.round(level.shareOfReadLoop * 100)} %`,
    level.toPrediction.toFixed(3),
    level.toWeights.toFixed(3),
    level.prefillTokensPerSecond.toFixed(0),
  ]);
  const head = [
    "rate",
    "ms/token",
    "tokens/s",
    "MB/token",
    "MB of states",
    "GB/s",
    "of read loop",
    "to bytes",
    "to weights",
    "prefill tokens/s",
  ];
  return [
    `${result.model}, ${result.threads} threads, blocks of ${result.blockSize}, medians of ${result.rounds} rounds, ` +
    `kernels ${result.kernels}`,
    table(head, rows),
    `read loop ${result.readLoopGBps.toFixed(1)} GB/s`,
    `"to bytes": time against what the share of rate 0's bytes predicts, states read and written; "to weights": of the weights'`,
    ...(result.elasticToPlain === null ? [] : [
      `elastic graph at rate 0 against a plain one: ${result.elasticToPlain.toFixed(3)} × the time`,
    ]),
    ...(result.context === null ? [] : [
      `decode behind ${result.context.long} tokens: ${result.context.longToShort.toFixed(3)} × the time behind ` +
      `${result.context.short}`,
    ]),
    ...(result.further === null ? [] : [
      `${CHUNKS} chunks of ${result.prefillTokens} behind ${result.further.behind} tokens and each other: ` +
      `${result.further.ms.toFixed(0)} ms` +
      (result.further.stockToNative === null
        ? ""
        : `; stock operators take ${result.further.stockToNative.toFixed(2)} × the time`),
    ]),
    `steps at the first and the last rate in turn: ${result.rateChange.toFixed(3)} × the mean of the two`,
    ...result.batchSpeedups.map(({ sequences, speedup }) =>
      `${sequences} sequences together: ${speedup.toFixed(2)} × the tokens/s of one`
    ),
    ...(result.stockToNative === null ? [] : [
      `stock operators take, at rate 0: ${result.stockToNative.oneRow.toFixed(2)} × the time for one sequence, ` +
      result.stockToNative.batches.map(({ sequences, ratio }) => `${ratio.toFixed(2)} × for ${sequences}`).join(", ") +
      `, ${result.stockToNative.prefill.toFixed(2)} × for a prefill of ${result.prefillTokens}`,
    ]),
  ].join("\n");
}

/** Of what was measured side by side. */
function medianRatio(of: readonly number[], by: readonly number[]): number {
  return median(of.map((value, i) => value / by[i]!));
}
