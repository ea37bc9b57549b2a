import type { Counter, Gauge, Histogram } from "prom-client";

/** One series of a gauge or counter. */
export interface PlainSeries {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** One series of a histogram. */
export interface HistogramSeries {
  readonly labels: Readonly<Record<string, string>>;
  readonly sum: number;
  readonly count: number;
  /** Observations per bucket, not added up, by its upper bound; those above all bounds are only in `count`. */
  readonly bucketValues: Readonly<Record<string, number>>;
}

/**
 * Reads the series that a gauge or counter has now.
 *
 * prom-client's own `get()` answers later, and a decision is made between two instants; so this reads what `get()`
 * reads. The package's version is pinned, and a test holds both to be the same.
 */
export function plainSeries(metric: Gauge | Counter): PlainSeries[] {
  const { collect, hashMap } = metric as unknown as { collect?: () => unknown; hashMap: Record<string, PlainSeries> };
  collect?.call(metric);
  return Object.values(hashMap);
}

/** Reads the series that a histogram has now. See `plainSeries()`. */
export function histogramSeries(metric: Histogram): HistogramSeries[] {
  return Object.values((metric as unknown as { hashMap: Record<string, HistogramSeries> }).hashMap);
}

/** The value of a metric without labels; 0 if it is absent. */
export function plainValue(metric: Gauge | Counter): number {
  return plainSeries(metric)[0]?.value ?? 0;
}
