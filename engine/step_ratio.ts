import type { StepKind } from "./step_costs.ts";

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

/** Parts of each difference that phases, and numbers of sequences that decode together, take for themselves. */
const [PHASE_SHARE, SEQUENCES_SHARE] = [0.05, 0.06];

/** What each keeps of its own part from step to step: without evidence all return to the common one. */
const MEMORY = 0.998;

/**
 * Measured time of steps divided by predicted time, as it changes: a common factor, what a phase differs from it, and
 * what decoding so many sequences together differs from that. In logarithms, so that half and double weigh alike.
 *
 * The number of sequences tells more than the level: when others use the machine's memory, a step that decodes one
 * sequence takes 1.45 times as long and one that decodes four 1.1 times, for that computes while it reads; levels differ
 * by 0.1 at most. In 22 logs of replays, 35 s each, the time of the next twelve steps was off by 2.5 % in the median, with
 * levels in place of numbers by 2.9 %; in those at half of what rate 0 sustains by 2.5 and 5.5 %.
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
  observe(kind: StepKind, measured: number, predicted: number): void {
    if (!(measured > 0 && predicted > 0)) return;
    const surprise = Math.log(measured / predicted) - Math.log(this.of(kind));
    const difference = Math.max(-MOST_SURPRISE, Math.min(MOST_SURPRISE, surprise));
    this.#meanDifference += TRACKING * (difference - this.#meanDifference);
    this.#meanAbsolute += TRACKING * (Math.abs(difference) - this.#meanAbsolute);
    const tracking = this.#meanAbsolute === 0 ? 0 : Math.abs(this.#meanDifference) / this.#meanAbsolute;
    this.#common += Math.max(SLOWEST, FASTEST * tracking * tracking) * difference;
    for (const { key, share } of partsOf(kind)) {
      this.#own.set(key, (this.#own.get(key) ?? 0) * MEMORY + share * difference);
    }
  }

  /** The factor for a kind of step; 1 before anything was measured. */
  of(kind: StepKind): number {
    return Math.exp(partsOf(kind).reduce((sum, { key }) => sum + (this.#own.get(key) ?? 0), this.#common));
  }
}

/** What is learned for a kind of step beside the common factor. A prompt's rows are many, whoever decodes beside it. */
function partsOf({ phase, sequences }: StepKind): { readonly key: string; readonly share: number }[] {
  const own = { key: phase, share: PHASE_SHARE };
  return phase === "prefill" ? [own] : [own, { key: `${phase} ${sequences}`, share: SEQUENCES_SHARE }];
}
