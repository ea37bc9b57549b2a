import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { mersenne } from "pure-rand/generator/mersenne";
import { selectLargest } from "./select_largest.ts";

export interface SamplingOptions {
  /** 0 takes the likeliest token. */
  readonly temperature: number;
  /** Keeps this many of the likeliest tokens; 0 keeps all. */
  readonly topK: number;
  /** Keeps the likeliest tokens that together reach this probability, one at least; 1 keeps all. */
  readonly topP: number;
  /** Keeps tokens at least this share as likely as the likeliest; 0 keeps all. */
  readonly minP: number;
  /** Divides positive logits of tokens in prompt or answer, and multiplies negative ones; 1 is none. */
  readonly repetitionPenalty: number;
  /** Subtracted from the logits of tokens in the answer; 0 is none. */
  readonly presencePenalty: number;
  /** Subtracted once for each time a token is in the answer; 0 is none. */
  readonly frequencyPenalty: number;
  /** 0 to 2³² − 1. */
  readonly seed: number;
  /** How many of the likeliest tokens to report with each token; `null` reports no probabilities. */
  readonly logprobs: number | null;
}

/** The model's own distribution: no cuts, no penalties. */
export const PLAIN_SAMPLING: Omit<SamplingOptions, "seed"> = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logprobs: null,
};

export interface TokenLogprob {
  readonly token: number;
  /** Natural logarithm of the model's probability, before penalties, temperature and cuts. */
  readonly logprob: number;
}

export interface Logprobs {
  readonly logprob: number;
  /** The likeliest tokens, the likeliest first. */
  readonly top: readonly TokenLogprob[];
}

export interface Sample {
  readonly token: number;
  /** `null` if they were not asked for. */
  readonly logprobs: Logprobs | null;
}

/** Memory that samplers of one engine share, as they work one after the other. */
export class SamplerScratch {
  tokens = new Int32Array(0);
  /** Relative to the likeliest token, which has 1. */
  weights = new Float32Array(0);
  /** The bits of `weights`. */
  weightBits = new Int32Array(0);

  /** Makes room for a vocabulary. */
  reserve(size: number): void {
    if (this.tokens.length >= size) return;
    this.tokens = new Int32Array(size);
    this.weights = new Float32Array(size);
    this.weightBits = new Int32Array(this.weights.buffer);
  }
}

/** Chooses the tokens of one answer. The same options, prompt and logits give the same tokens. */
export class Sampler {
  readonly #options: SamplingOptions;
  readonly #scratch: SamplerScratch;
  /** One whose first numbers differ from seed to seed as much as its later ones: seeds are small, and answers short. */
  readonly #random: ReturnType<typeof mersenne>;
  readonly #penalizes: boolean;
  /** Times in the answer, of every token in prompt or answer; kept for penalties only. */
  readonly #counts = new Map<number, number>();

  constructor(options: SamplingOptions, prompt: Iterable<number>, scratch: SamplerScratch) {
    this.#options = options;
    this.#scratch = scratch;
    this.#random = mersenne(options.seed);
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = options;
    this.#penalizes = repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
    if (this.#penalizes) { for (const token of prompt) this.#counts.set(token, 0); }
  }

  /**
   * @param logits `[V]`; changed by penalties.
   * @param known The token of the greatest of them, if somebody has found it already.
   * @throws {RangeError} If the largest logit is not finite: the step that made them went wrong.
   */
  sample(logits: Float32Array, known: number | null = null): Sample {
    const { temperature, logprobs } = this.#options;
    const model = logprobs === null ? null : modelLogprobs(logits, logprobs);
    const unchanged = model === null || !this.#penalizes ? logits : logits.slice();
    if (this.#penalizes) this.#penalize(logits);
    const likeliest = known === null || this.#penalizes ? argmax(logits) : known;
    checkFinite(logits[likeliest]!);
    const token = temperature === 0 ? likeliest : this.#draw(logits, likeliest);
    if (this.#penalizes) this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1);
    return {
      token,
      logprobs: model === null ? null : { logprob: unchanged[token]! - model.logNormalizer, top: model.top },
    };
  }

  #penalize(logits: Float32Array): void {
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = this.#options;
    for (const [token, count] of this.#counts) {
      let logit = logits[token]!;
      logit = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
      if (count > 0) logit -= presencePenalty + count * frequencyPenalty;
      logits[token] = logit;
    }
  }

  /** Cuts by min-p, top-k and top-p, in this order, each on what the one before kept; then draws. */
  #draw(logits: Float32Array, likeliest: number): number {
    const { temperature, topK, topP, minP } = this.#options;
    const scratch = this.#scratch;
    scratch.reserve(logits.length);
    const { tokens, weights } = scratch;
    const max = logits[likeliest]!;
    // Infinitely far below for minP = 0.
    const least = max + temperature * Math.log(minP);

    let kept = 0;
    if (topK > 0 && topK < logits.length) {
      kept = selectLargest(logits, topK, tokens);
      let passed = 0;
      for (let i = 0; i < kept; i++) if (logits[tokens[i]!]! >= least) tokens[passed++] = tokens[i]!;
      kept = passed;
    } else {
      for (let token = 0; token < logits.length; token++) if (logits[token]! >= least) tokens[kept++] = token;
    }
    let total = 0;
    for (let i = 0; i < kept; i++) total += weights[i] = Math.exp((logits[tokens[i]!]! - max) / temperature);
    if (topP < 1) ({ kept, total } = keepMass(scratch, kept, topP * total));

    let left = uniformFloat64(this.#random) * total;
    for (let i = 0; i < kept; i++) {
      left -= weights[i]!;
      if (left < 0) return tokens[i]!;
    }
    return likeliest; // rounding left a rest
  }
}

const ONE_BITS = 0x3f800000;
/** Bits of a float32 below its exponent and the first 5 of its mantissa. */
const BAND_SHIFT = 18;
/** Down to weights of 2⁻³²; the last band takes all the rest. */
const BANDS = 1024;

/** Bands of weights, 32 for each power of two below 1, read off the bits: positive floats are in their bits' order. */
const bandOf = (bits: number) => Math.min(BANDS - 1, (ONE_BITS - bits) >> BAND_SHIFT);

/**
 * Keeps the heaviest of the first `count` tokens that together reach `mass`, moved to the front. A histogram finds the
 * band of weights in which it is reached, so that only this band is sorted.
 */
function keepMass(scratch: SamplerScratch, count: number, mass: number): { kept: number; total: number } {
  const { tokens, weights, weightBits } = scratch;
  const sums = new Float64Array(BANDS);
  for (let i = 0; i < count; i++) sums[bandOf(weightBits[i]!)]! += weights[i]!;
  let [band, total] = [0, 0];
  while (band < BANDS - 1 && total + sums[band]! < mass) total += sums[band++]!;

  const inBand: { token: number; weight: number }[] = [];
  let kept = 0;
  for (let i = 0; i < count; i++) {
    const own = bandOf(weightBits[i]!);
    if (own === band) {
      inBand.push({ token: tokens[i]!, weight: weights[i]! });
    } else if (own < band) {
      tokens[kept] = tokens[i]!;
      weights[kept++] = weights[i]!;
    }
  }
  inBand.sort((a, b) => b.weight - a.weight || a.token - b.token);
  for (const { token, weight } of inBand) {
    if (kept > 0 && total >= mass) break;
    tokens[kept] = token;
    weights[kept++] = weight;
    total += weight;
  }
  return { kept, total };
}

function argmax(logits: Float32Array): number {
  let [best, largest] = [0, -Infinity];
  for (let token = 0; token < logits.length; token++) {
    const logit = logits[token]!;
    if (logit > largest) [best, largest] = [token, logit];
  }
  checkFinite(largest);
  return best;
}

function checkFinite(largest: number): void {
  if (!Number.isFinite(largest)) throw new RangeError(`Cannot choose a token: the largest logit is ${largest}`);
}

function modelLogprobs(logits: Float32Array, count: number): { logNormalizer: number; top: TokenLogprob[] } {
  const max = logits[argmax(logits)]!;
  let sum = 0;
  for (let token = 0; token < logits.length; token++) sum += Math.exp(logits[token]! - max);
  const logNormalizer = max + Math.log(sum);
  const largest = new Int32Array(Math.min(count, logits.length));
  selectLargest(logits, largest.length, largest);
  const top = Array.from(largest, (token) => ({ token, logprob: logits[token]! - logNormalizer }));
  return { logNormalizer, top: top.sort((a, b) => b.logprob - a.logprob || a.token - b.token) };
}
