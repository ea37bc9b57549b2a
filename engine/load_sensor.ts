import type { Gauge, Registry } from "prom-client";
import { AnswerLengths } from "./answer_lengths.ts";
import { ArrivalPace } from "./arrival_pace.ts";
import type { LoadSnapshot } from "./load.ts";
import type { Metrics } from "./metrics.ts";
import { RecentMean } from "./recent_mean.ts";
import { histogramSeries, plainSeries, plainValue } from "./registered_series.ts";
import type { Phase, StepKind } from "./step_costs.ts";
import { StepRatio } from "./step_ratio.ts";

/** Times over which the pace of arrivals is averaged; a burst is over before the second one shows it. */
const [LATELY_SECONDS, SUSTAINED_SECONDS] = [10, 40];

/** How fast the time between steps follows, in parts of each difference. The first ones count alike. */
const BETWEEN_GAIN = 0.05;

/** Differences count for no more than this there, in natural logarithms: a pause for once is no way of working. */
const MOST_BETWEEN = 0.7;

/** How fast the median of the prediction error, its side and its spread follow, in parts of each difference. */
const ERROR_GAIN = 0.1;

/** A difference counts for no more than this in the median, in natural logarithms; that makes it one. */
const MOST_ERROR = 0.03;

/**
 * Larger differences do not count in the median, in natural logarithms: those whom a burst held up, or who saw the machine
 * change, nobody could foresee, and a median that gives way to them makes the predictions for all others wrong. At half
 * of what rate 0 sustains three of five answers have company that came later; predictions were off there by 9.2 % in the
 * median while all counted, and by 8.5 % since (40 traces of `REPLAYED` in virtual time). Where one request after the
 * other differs to the same side, they count all the same, and for up to the mean difference: then the median is not
 * there yet.
 */
const UNFORESEEN = 0.15;

/**
 * Square of the mean sign from which differences count as one-sided, so that large ones count too; independent signs give
 * 0.05 on average.
 */
const SAME_SIDE = 0.4;

/** Of a normal distribution: standard deviation divided by mean absolute deviation. */
const MEAN_TO_DEVIATION = Math.sqrt(Math.PI / 2);

/** Error that is assumed before requests have ended, as a mean absolute deviation in natural logarithms. */
const FIRST_DEVIATION = 0.06;

/** Standard deviations above the median that four out of five stay below, and nineteen out of twenty. */
const [FOUR_OF_FIVE, NINETEEN_OF_TWENTY] = [0.84, 1.64];

/** What a sensor has learned of the times of steps, for another to begin with that follows it. */
export interface LearnedTimes {
  readonly stepRatio: StepRatio;
  readonly betweenSteps: {
    /** The logarithm of milliseconds. */
    readonly log: number;
    /** Readings that it comes from. */
    readonly readings: number;
  };
}

/**
 * Reads the registry for what the predictor and the policies need to know. Sums and counts only grow, so what is new
 * since the last reading tells what happened lately.
 */
export class LoadSensor {
  readonly #metrics: Metrics;
  readonly #registry: Registry;
  readonly #stepRatio: StepRatio;
  readonly #seen = new Map<string, { sum: number; predicted: number }>();
  /** `median` is a natural logarithm; `side` is the mean of the signs of the differences, -1 to 1. */
  readonly #error = { median: 0, side: 0, deviation: FIRST_DEVIATION, sum: 0, count: 0 };
  /** `log` is the logarithm of milliseconds. */
  readonly #between: { log: number; readings: number; sum: number; count: number };
  readonly #pace = { lately: new ArrivalPace(LATELY_SECONDS), sustained: new ArrivalPace(SUSTAINED_SECONDS) };
  readonly #promptTokens = new RecentMean();
  readonly #newTokens = new RecentMean();
  /** How long answers get. */
  readonly answerLengths = new AnswerLengths();
  readonly #lengthsSeen = new Map<string, { sum: number; count: number }>();

  constructor(
    { metrics, registry, learned }: { metrics: Metrics; registry: Registry; learned?: LearnedTimes | undefined },
  ) {
    this.#metrics = metrics;
    this.#registry = registry;
    this.#stepRatio = learned?.stepRatio ?? new StepRatio();
    this.#between = { ...learned?.betweenSteps ?? { log: -Infinity, readings: 0 }, sum: 0, count: 0 };
  }

  /** What it has learned so far; it is not to go on learning when another one has this. */
  get learned(): LearnedTimes {
    const { log, readings } = this.#between;
    return { stepRatio: this.#stepRatio, betweenSteps: { log, readings } };
  }

  /** Share of the machine that other work takes; 0 where nobody measures it. */
  get contention(): number {
    const gauge = this.#registry.getSingleMetric("espalier_load_contention_ratio");
    return gauge === undefined ? 0 : plainValue(gauge as Gauge);
  }

  /** Measured time of a step divided by the table's. */
  stepRatio(kind: StepKind): number {
    return this.#stepRatio.of(kind);
  }

  /** Takes what the metrics of steps have gained. To be called after each step. @param sequences That had a part in it. */
  readSteps(sequences: number): void {
    const predictions = plainSeries(this.#metrics.stepPredictedSeconds);
    for (const { labels, sum } of histogramSeries(this.#metrics.stepSeconds)) {
      const [phase, rate] = [labels["phase"] as Phase, labels["rate"]!];
      const key = `${phase} ${rate}`;
      const before = this.#seen.get(key) ?? { sum: 0, predicted: 0 };
      if (sum === before.sum) continue;
      const predicted = predictions.find(({ labels }) => labels["phase"] === phase && labels["rate"] === rate)?.value;
      if (predicted === undefined) continue;
      this.#stepRatio.observe({ phase, sequences }, sum - before.sum, predicted - before.predicted);
      this.#seen.set(key, { sum, predicted });
    }
    this.#readBetween();
  }

  #readBetween(): void {
    const [series] = histogramSeries(this.#metrics.betweenSteps);
    const between = this.#between;
    if (series === undefined || series.count === between.count) return;
    const log = Math.log(1000 * (series.sum - between.sum) / (series.count - between.count));
    [between.sum, between.count] = [series.sum, series.count];
    if (!Number.isFinite(log)) return;
    between.readings++;
    if (between.log === -Infinity) between.log = log;
    else {
      const difference = Math.max(-MOST_BETWEEN, Math.min(MOST_BETWEEN, log - between.log));
      between.log += Math.max(BETWEEN_GAIN, 1 / between.readings) * difference;
    }
  }

  /** Takes what the metrics of requests have gained. To be called after each request. */
  readRequests(): void {
    this.#readErrors();
    this.#readLengths();
  }

  /**
   * An answer that its budget cut off counts like one that its limit did: without these the long ones would be missing
   * where answers are slow. Cancelled ones are in no series of answers: they tell of a caller's patience, and many that
   * left at once would leave no room for others.
   */
  #readLengths(): void {
    for (const { labels, sum, count } of histogramSeries(this.#metrics.generationLength)) {
      const reason = labels["reason"]!;
      const before = this.#lengthsSeen.get(reason) ?? { sum: 0, count: 0 };
      if (count === before.count) continue;
      const tokens = (sum - before.sum) / (count - before.count);
      this.answerLengths.add({ tokens, ended: reason === "stop" });
      this.#lengthsSeen.set(reason, { sum, count });
    }
  }

  #readErrors(): void {
    const [series] = histogramSeries(this.#metrics.predictionErrorRatio);
    const error = this.#error;
    if (series === undefined || series.count === error.count) return;
    const difference = Math.log((series.sum - error.sum) / (series.count - error.count));
    [error.sum, error.count] = [series.sum, series.count];
    if (!Number.isFinite(difference)) return;
    // The predictions were corrected by the median already, so the difference is what it still lacks.
    error.side += ERROR_GAIN * (Math.sign(difference) - error.side);
    error.deviation += ERROR_GAIN * (Math.abs(difference) - error.deviation);
    const oneSided = error.side ** 2;
    const most = Math.max(MOST_ERROR, oneSided * error.deviation);
    if (Math.abs(difference) > UNFORESEEN && oneSided < SAME_SIDE) return;
    error.median += ERROR_GAIN * Math.max(-most, Math.min(most, difference));
  }

  /** @param nowMs On the clock of all readings. */
  snapshot(nowMs: number): LoadSnapshot {
    const { slots, requestsRunning, requestsWaiting, waitingPromptTokens, effectivePruningRate } = this.#metrics;
    const { median, deviation } = this.#error;
    const above = (deviations: number) => Math.exp(median + deviations * MEAN_TO_DEVIATION * deviation);
    return {
      slots: plainValue(slots),
      requestsRunning: plainValue(requestsRunning),
      requestsWaiting: plainValue(requestsWaiting),
      waitingPromptTokens: plainValue(waitingPromptTokens),
      effectivePruningRate: plainValue(effectivePruningRate),
      contention: this.contention,
      stepRatio: (kind) => this.stepRatio(kind),
      betweenStepsMs: Math.exp(this.#between.log),
      predictionError: {
        median: Math.exp(median),
        safe: above(FOUR_OF_FIVE),
        sure: above(NINETEEN_OF_TWENTY),
      },
      arrivals: this.#readArrivals(nowMs),
    };
  }

  #readArrivals(nowMs: number): LoadSnapshot["arrivals"] {
    const count = plainValue(this.#metrics.requestsArrived);
    const perSecond = this.#pace.lately.read(count, nowMs);
    const sustainedPerSecond = this.#pace.sustained.read(count, nowMs);
    const promptTokens = this.#promptTokens.read(this.#metrics.requestPromptTokens);
    const newTokens = this.#newTokens.read(this.#metrics.requestGenerationTokens);
    // Until requests have ended nothing is known of those to come.
    if (newTokens === 0) return { perSecond: 0, sustainedPerSecond: 0, promptTokens, newTokens };
    return { perSecond, sustainedPerSecond, promptTokens, newTokens };
  }
}
