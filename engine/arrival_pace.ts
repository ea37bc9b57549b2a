/** Time that must have been seen until a pace is believed; before, it is less. */
const SEEN_SECONDS = 3.6;

/**
 * How many requests come in a second, averaged over time that is forgotten exponentially. It makes up for what was not
 * seen: otherwise a service that starts under overload would let in for as long as that what it cannot serve.
 */
export class ArrivalPace {
  readonly #seconds: number;
  #perSecond = 0;
  /** The part of the average that lies after the first reading. */
  #seen = 0;
  #count = 0;
  #atMs = -Infinity;

  /** @param seconds The time over which it is averaged. */
  constructor(seconds: number) {
    this.#seconds = seconds;
  }

  /** @param count Of requests so far. @param nowMs On the clock of all readings. @returns Requests per second. */
  read(count: number, nowMs: number): number {
    const seconds = (nowMs - this.#atMs) / 1000;
    if (seconds > 0) {
      if (Number.isFinite(seconds)) {
        const share = this.#shareOf(seconds);
        this.#perSecond += share * ((count - this.#count) / seconds - this.#perSecond);
        this.#seen += share * (1 - this.#seen);
      }
      [this.#count, this.#atMs] = [count, nowMs];
    }
    return this.#perSecond / Math.max(this.#shareOf(SEEN_SECONDS), this.#seen);
  }

  #shareOf(seconds: number): number {
    return 1 - Math.exp(-seconds / this.#seconds);
  }
}
