import { neverRising } from "../../engine/never_rising.ts";
import { median } from "../statistics.ts";
import type { Answer, Info, Reply, ServiceClient } from "./client.ts";
import type { MeasuredCosts } from "./measured_costs.ts";
import type { RandomDraws } from "./random.ts";
import type { TraceWork } from "./trace.ts";

/** Random prompts: any tokens will do, and an artefact of random weights has no tokenizer. */
export function randomPrompt(draws: RandomDraws, tokens: number, vocabSize: number): number[] {
  return Array.from({ length: tokens }, () => draws.integer(vocabSize));
}

export interface CostOptions {
  readonly client: ServiceClient;
  readonly info: Info;
  /** Prompt rows of one step of the service. */
  readonly prefillChunk: number;
  /** Tokens before those that are decoded. */
  readonly context: number;
  /** Time after which no other round begins; there is one at least. */
  readonly seconds: number;
  readonly draws: RandomDraws;
  /** @param share Of the work, 0 to 1. */
  readonly onProgress: (share: number) => void;
}

/** Times that everything is measured at most; medians count. */
const ROUNDS = 5;

/** Tokens of a measured answer: the first comes with the prefill, some are decoded beside those who start or end. */
const TOKENS = 6;

/** Times that prompts are exchanged before it is given up. */
const ATTEMPTS = 100;

/**
 * Measures what steps cost through the door of the service: answers at pinned rates, so many at once, to nobody else.
 * All levels take turns, so that a slow moment of the machine falls on all alike.
 *
 * @throws {RangeError} If an answer is refused, or no answer is long enough to measure.
 */
export async function measureCosts(options: CostOptions): Promise<MeasuredCosts> {
  const { client, info, prefillChunk, context, seconds, draws, onProgress } = options;
  const pruningRates = info.levels.map(({ pruning_rate }) => pruning_rate);
  const batches = sizes(info.slots, [1, 2, 3, 4, 8, 16, 32, 64]);
  const rows = sizes(prefillChunk, [1, 8, 32]);
  const longest = Math.max(context, prefillChunk);
  const overheads: number[] = [];
  const prompts: number[][] = [];
  /** Answers to so many requests at once, each of the same length. */
  const ask = async (count: number, promptTokens: number, newTokens: number, pruningRate: number) => {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      while (prompts.length < count) prompts.push(randomPrompt(draws, longest, info.model.vocab_size));
      const asked = prompts.slice(0, count);
      const replies = await Promise.all(asked.map((prompt) =>
        client.generate({
          prompt_tokens: prompt.slice(0, promptTokens),
          max_new_tokens: newTokens,
          temperature: 0,
          pruning_rate: pruningRate,
        })
      ));
      const answers = replies.map(answerOf);
      if (count === 1) overheads.push(replies[0]!.ms - answers[0]!.timings_ms.total);
      // A prompt to which the model answers briefly tells nothing about steps; others may do.
      const brief = asked.filter((_, i) => answers[i]!.usage.completion_tokens < newTokens);
      if (brief.length === 0) return answers;
      for (const prompt of brief) prompts.splice(prompts.indexOf(prompt), 1);
    }
    throw new RangeError(`Cannot measure steps: the model ends its answers before ${newTokens} tokens`);
  };

  const decode = pruningRates.map(() => batches.map(() => [] as number[]));
  const prefill = pruningRates.map(() => rows.map(() => [] as number[]));
  await ask(1, context, TOKENS, pruningRates[0]!);
  const start = performance.now();
  const timeShare = () => (performance.now() - start) / (1000 * seconds);
  for (let round = 0; round === 0 || (round < ROUNDS && timeShare() < 1); round++) {
    for (const [level, rate] of pruningRates.entries()) {
      for (const [i, count] of batches.entries()) {
        const answers = await ask(count, context, TOKENS, rate);
        // The one that decoded least beside the prefill of others.
        decode[level]![i]!.push(Math.min(...answers.map(({ timings_ms }) => timings_ms.decode)) / (TOKENS - 1));
      }
      for (const [i, count] of rows.entries()) {
        prefill[level]![i]!.push((await ask(1, count, 1, rate))[0]!.timings_ms.prefill);
      }
      const rounds = round + (level + 1) / pruningRates.length;
      onProgress(Math.max(rounds / ROUNDS, Math.min(timeShare(), rounds, 1)));
    }
  }
  const settled = (samples: readonly (readonly number[])[][]) => {
    const columns = samples[0]!.map((_, i) => neverRising(samples.map((level) => median(level[i]!))));
    return samples.map((_, level) => neverFalling(columns.map((column) => column[level]!)));
  };
  return {
    pruningRates,
    decodeMs: settled(decode).map((ms) => filledIn(batches, ms, info.slots)),
    prefillMs: settled(prefill).map((ms) => rows.map((count, i) => ({ rows: count, ms: ms[i]! }))),
    overheadMs: median(overheads),
  };
}

/** The nearest values that never fall. Levels of which none was below the other's at any size stay so. */
function neverFalling(values: readonly number[]): number[] {
  return neverRising(values.toReversed()).reverse();
}

/** The sizes below the last, and the last. */
function sizes(last: number, below: readonly number[]): number[] {
  return [...below.filter((size) => size < last), last];
}

/** Values for 1 to `last`, on lines between those that were measured. */
function filledIn(at: readonly number[], values: readonly number[], last: number): number[] {
  return Array.from({ length: last }, (_, index) => {
    const size = index + 1;
    const to = at.findIndex((measured) => measured >= size);
    if (at[to] === size) return values[to]!;
    const share = (size - at[to - 1]!) / (at[to]! - at[to - 1]!);
    return values[to - 1]! + share * (values[to]! - values[to - 1]!);
  });
}

export interface CapacityOptions {
  readonly client: ServiceClient;
  readonly info: Info;
  readonly work: readonly TraceWork[];
  readonly seconds: number;
  readonly draws: RandomDraws;
  /** @param share Of the work, 0 to 1. */
  readonly onProgress: (share: number) => void;
}

/**
 * Requests per second that rate 0 sustains: as many callers as there are slots, each of whom asks for the next answer
 * as soon as he has one. What is still running at the end counts by the part of its time that had passed.
 *
 * @throws {RangeError} If an answer is refused.
 */
export async function measureCapacity(options: CapacityOptions): Promise<number> {
  const { client, info, work, seconds, draws, onProgress } = options;
  const start = performance.now();
  const end = start + 1000 * seconds;
  let [next, done] = [0, 0];
  await Promise.all(Array.from({ length: info.slots }, async () => {
    while (true) {
      const startedMs = performance.now();
      if (startedMs >= end) return;
      const { promptTokens, newTokens } = work[next++ % work.length]!;
      answerOf(
        await client.generate({
          prompt_tokens: randomPrompt(draws, promptTokens, info.model.vocab_size),
          max_new_tokens: newTokens,
          temperature: 0,
          pruning_rate: info.levels[0]!.pruning_rate,
        }),
      );
      const endedMs = performance.now();
      done += Math.min(1, (end - startedMs) / (endedMs - startedMs));
      onProgress(Math.min(1, (endedMs - start) / (end - start)));
    }
  }));
  return done / seconds;
}

function answerOf({ status, answer, problem }: Reply): Answer {
  if (answer !== null) return answer;
  throw new RangeError(`Cannot measure the service: it answers ${status}: ${problem?.slice(0, 200)}`);
}
