import { mean, median, percentile } from "../statistics.ts";
import { isMet, type Outcome } from "./outcome.ts";
import type { ProbeTimes } from "./probes.ts";

/** A quantity's 50th, 95th and 99th percentile. */
export interface Percentiles {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
}

/** How one policy did with the traces of one load. Shares are 0 to 1, times milliseconds; NaN where nothing was to be counted. */
export interface Summary {
  readonly offered: number;
  readonly answered: number;
  /** 429 and 503. */
  readonly refused: number;
  /** Any other status, and broken connections. */
  readonly failed: number;
  /** Answers in time as the client measured it, of all that were offered. */
  readonly attainment: number;
  /** The same by the service's own word. */
  readonly serverAttainment: number;
  readonly attainmentByClass: Readonly<Record<string, number>>;
  /** Answers in time, of all answers. */
  readonly admittedMet: number;
  /** Of all answers, each the mean over its tokens. */
  readonly meanRate: number;
  /** Of all answers, the largest rate that each ran at. */
  readonly meanLargestRate: number;
  /** Geometric mean over all answers; NaN if the artefact was not measured. */
  readonly meanPerplexity: number;
  /** Tokens of answers in time, per second of the traces, each of which lasts to its last answer at least. */
  readonly goodputTokensPerSecond: number;
  readonly refusalP99Ms: number;
  /** Of `/metrics` and `/readyz`, asked for all the time. */
  readonly probeP99Ms: Readonly<Record<keyof ProbeTimes, number>>;
  readonly ttftMs: Percentiles;
  readonly perTokenMs: Percentiles;
  /** As the client measured it. */
  readonly totalMs: Percentiles;
  /** Median of |predicted − measured| / measured over all answers, and over those to late arrivals. */
  readonly predictionError: number;
  readonly settledPredictionError: number;
  /** Answers, in the order of arrival, whose rate differs from that of the one before in the same trace. */
  readonly switchesPerMinute: number;
  /** How late the client sent, which should be next to nothing. */
  readonly lateP99Ms: number;
}

/** Time that a predictor gets to settle. */
export const SETTLING_MS = 20_000;

export interface SummaryOptions {
  /** Length of each trace. */
  readonly seconds: number;
  /** Perplexity by rate, where it is known. */
  readonly perplexity: ReadonlyMap<number, number>;
  readonly probes: ProbeTimes;
}

/** Counts what came of the traces of one load. @param outcomes By round and arrival. */
export function summarize(outcomes: readonly Outcome[], { seconds, perplexity, probes }: SummaryOptions): Summary {
  const answers = outcomes.flatMap((outcome) => outcome.served === null ? [] : [{ outcome, served: outcome.served }]);
  const met = outcomes.filter(isMet);
  const refusals = outcomes.filter(({ status }) => status === 429 || status === 503);
  const rates = answers.map(({ served }) => served.pruningRate);
  const rounds = Map.groupBy(outcomes, ({ round }) => round).values().toArray();
  const lastedMs = rounds.reduce(
    (sum, round) => sum + Math.max(1000 * seconds, ...round.map(({ sentMs, ms }) => sentMs + ms)),
    0,
  );
  const share = (of: number, all: number) => all === 0 ? NaN : of / all;
  const classes = [...new Set(outcomes.map(({ budgetClass }) => budgetClass))].sort();
  const inClass = (list: readonly Outcome[], name: string) => list.filter(({ budgetClass }) => budgetClass === name);
  return {
    offered: outcomes.length,
    answered: answers.length,
    refused: refusals.length,
    failed: outcomes.length - answers.length - refusals.length,
    attainment: share(met.length, outcomes.length),
    serverAttainment: share(answers.filter(({ served }) => served.met).length, outcomes.length),
    attainmentByClass: Object.fromEntries(
      classes.map((name) => [name, share(inClass(met, name).length, inClass(outcomes, name).length)]),
    ),
    admittedMet: share(met.length, answers.length),
    meanRate: mean(answers.map(({ served }) => served.meanPruningRate)),
    meanLargestRate: mean(rates),
    meanPerplexity: Math.exp(mean(rates.map((rate) => Math.log(perplexity.get(rate) ?? NaN)))),
    goodputTokensPerSecond: met.reduce((sum, { served }) => sum + served!.tokens, 0) / (lastedMs / 1000),
    refusalP99Ms: percentile(refusals.map(({ ms }) => ms), 0.99),
    probeP99Ms: { metrics: percentile(probes.metrics, 0.99), readyz: percentile(probes.readyz, 0.99) },
    ttftMs: percentiles(answers.map(({ served }) => served.ttftMs)),
    perTokenMs: percentiles(
      answers.flatMap(({ served: { decodeMs, tokens } }) => tokens < 2 ? [] : [decodeMs / (tokens - 1)]),
    ),
    totalMs: percentiles(answers.map(({ outcome }) => outcome.ms)),
    predictionError: predictionError(outcomes, { fromMs: 0, toMs: Infinity }),
    settledPredictionError: predictionError(outcomes, { fromMs: SETTLING_MS, toMs: Infinity }),
    switchesPerMinute: answers.filter(({ outcome, served }, i) => {
      const before = answers[i - 1];
      return before?.outcome.round === outcome.round && before.served.pruningRate !== served.pruningRate;
    }).length / (lastedMs / 60_000),
    lateP99Ms: percentile(outcomes.map(({ arrivalMs, sentMs }) => sentMs - arrivalMs), 0.99),
  };
}

/** Median of |predicted − measured| / measured, over answers to what arrived in a span of time; NaN if none did. */
export function predictionError(
  outcomes: readonly Outcome[],
  { fromMs, toMs }: { readonly fromMs: number; readonly toMs: number },
): number {
  return median(
    outcomes.filter(({ arrivalMs }) => arrivalMs >= fromMs && arrivalMs < toMs)
      .flatMap(({ served }) => served === null ? [] : [Math.abs(served.predictedMs / served.totalMs - 1)]),
  );
}

function percentiles(values: readonly number[]): Percentiles {
  return { p50: percentile(values, 0.5), p95: percentile(values, 0.95), p99: percentile(values, 0.99) };
}
