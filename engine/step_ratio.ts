/**
 * How fast an estimate follows, at least and at most, in parts of each difference.
 *
 * These numbers were chosen with 5,000 steps of the service on a shared machine, where one in twelve takes a quarter
 * longer and sometimes three in a row do. Steps that become twice as slow are followed within about 25 of them.
 */
const [SLOWEST, FASTEST] = [0.02, 0.2];

/** How fast the mean differences change that the speed follows from. */
const TRACKING = 0.05;

/**
 * A step that takes much longer than predicted is an accident, and so are three; what matters goes on. In natural
 * logarithms. With 0.7, and twice the speed of today, three slow steps in a row made all predictions 60 % longer.
 */
const MOST_SURPRISE = 0.15;

/** Parts of each difference that phases, and levels in them, take for themselves. */
const [PHASE_SHARE, LEVEL_SHARE] = [0.05, 0.03];

/** What a phase or level keeps of its own part from step to step: without evidence all return to the common one. */
const MEMORY = 0.998;

/**
 * Measured time of steps divided by predicted time, as it changes: a common factor, what a phase differs from it, and
 * what a level in a phase differs from that. In logarithms, so that half and double weigh alike.
 *
 * The common factor follows a lasting change soon and noise slowly: it moves by the share of the mean
 * difference in the mean absolute difference, which is 1 when all differences have one sign.
 *
 * @see Trigg and Leach, Exponential smoothing with an adaptive response rate, 1967
 */
export class StepRatio {
  #common = 0;
  #meanDifference = 0;
  #meanAbsolute = 0;
  readonly #own = new Map<string, number>();

  /** Takes the times of one step or of several alike. */
  observe(phase: string, rate: string, measured: number, predicted: number): void {
    if (!(measured > 0 && predicted > 0)) return;
    const surprise = Math.log(measured / predicted) - Math.log(this.of(phase, rate));
    const difference = Math.max(-MOST_SURPRISE, Math.min(MOST_SURPRISE, surprise));
    this.#meanDifference += TRACKING * (difference - this.#meanDifference);
    this.#meanAbsolute += TRACKING * (Math.abs(difference) - this.#meanAbsolute);
    const tracking = this.#meanAbsolute === 0 ? 0 : Math.abs(this.#meanDifference) / this.#meanAbsolute;
    this.#common += Math.max(SLOWEST, FASTEST * tracking * tracking) * difference;
    for (const [key, share] of [[phase, PHASE_SHARE], [`${phase} ${rate}`, LEVEL_SHARE]] as const) {
      this.#own.set(key, (this.#own.get(key) ?? 0) * MEMORY + share * difference);
    }
  }

  /** The factor for a phase and rate; 1 before anything was measured. */
  of(phase: string, rate: string): number {
    return Math.exp(this.#common + (this.#own.get(phase) ?? 0) + (this.#own.get(`${phase} ${rate}`) ?? 0));
  }
}
