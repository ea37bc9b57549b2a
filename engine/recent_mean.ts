import type { Histogram } from "prom-client";
import { histogramSeries } from "./registered_series.ts";

/** What a value counts for when another has come after it: about the last hundred tell what is to be expected. */
const MEMORY = 0.99;

/** The mean of what a histogram without labels took lately. Clients change, and a service runs for months. */
export class RecentMean {
  #weight = 0;
  #sum = 0;
  #seen = { sum: 0, count: 0 };

  /** Takes what the histogram has gained. @returns The mean; 0 if there is nothing to take one of. */
  read(histogram: Histogram): number {
    const [series] = histogramSeries(histogram);
    if (series !== undefined && series.count > this.#seen.count) {
      const { sum, count } = series;
      const came = count - this.#seen.count;
      const kept = MEMORY ** came;
      // Of those that came together each counts for what the ones behind it leave of it.
      const weight = (1 - kept) / (1 - MEMORY);
      this.#weight = kept * this.#weight + weight;
      this.#sum = kept * this.#sum + weight * (sum - this.#seen.sum) / came;
      this.#seen = { sum, count };
    }
    return this.#weight === 0 ? 0 : this.#sum / this.#weight;
  }
}
