import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Sampler, SamplerScratch, type SamplingOptions } from "./sampler.ts";
import { GREEDY } from "./testing/toy_engine.ts";

const DRAWN = { ...GREEDY, temperature: 1, seed: 3 };
const sampler = (options: Partial<SamplingOptions>, prompt: number[] = []) =>
  new Sampler({ ...DRAWN, ...options }, prompt, new SamplerScratch());
/** Logits of these probabilities. */
const logitsOf = (...probabilities: number[]) => Float32Array.from(probabilities, Math.log);
/** How often each token is drawn in 4000. */
function frequencies(options: Partial<SamplingOptions>, ...probabilities: number[]): number[] {
  const drawn = sampler(options);
  const counts = probabilities.map(() => 0);
  for (let i = 0; i < 4000; i++) counts[drawn.sample(logitsOf(...probabilities)).token]!++;
  return counts.map((count) => count / 4000);
}
const drawnTokens = (options: Partial<SamplingOptions>, ...probabilities: number[]) =>
  frequencies(options, ...probabilities).flatMap((share, token) => share > 0 ? [token] : []);
function isNear(found: readonly number[], wanted: readonly number[]): void {
  ok(found.every((value, i) => Math.abs(value - wanted[i]!) < 0.03), `${found} is not near ${wanted}`);
}

describe("Sampler", () => {
  it("takes the likeliest token that it is told, unless penalties may have made another one likelier", () => {
    const logits = () => Float32Array.of(1, 5, 5, 2);
    equal(sampler({ temperature: 0 }).sample(logits(), 2).token, 2);
    equal(sampler({ temperature: 0, presencePenalty: 1 }).sample(logits(), 2).token, 1);
    throws(() => sampler({ temperature: 0 }).sample(Float32Array.of(1, NaN), 1), /the largest logit is NaN/);
  });

  it("takes the likeliest token at temperature 0, the first of several", () => {
    equal(sampler({ temperature: 0 }).sample(Float32Array.of(1, 5, 5, 2)).token, 1);
  });

  it("draws tokens as often as they are likely", () => {
    isNear(frequencies({}, 0.5, 0.2, 0.3), [0.5, 0.2, 0.3]);
  });

  it("flattens or sharpens by temperature", () => {
    isNear(frequencies({ temperature: 2 }, 0.64, 0.04, 0.32), [0.8, 0.2, 0.5657].map((w) => w / 1.5657));
    isNear(frequencies({ temperature: 0.5 }, 0.6, 0.1, 0.3), [0.36, 0.01, 0.09].map((w) => w / 0.46));
  });

  it("keeps the k likeliest", () => {
    isNear(frequencies({ topK: 2 }, 0.1, 0.4, 0.2, 0.3), [0, 4 / 7, 0, 3 / 7]);
  });

  it("keeps the likeliest that reach p together", () => {
    isNear(frequencies({ topP: 0.6 }, 0.1, 0.4, 0.2, 0.3), [0, 4 / 7, 0, 3 / 7]);
    deepEqual(drawnTokens({ topP: 0.71 }, 0.1, 0.4, 0.2, 0.3), [1, 2, 3]);
    deepEqual(drawnTokens({ topP: 0 }, 0.1, 0.4, 0.2, 0.3), [1]);
    deepEqual(drawnTokens({ topP: 0.7 }, 0.25, 0.25, 0.25, 0.25), [0, 1, 2]);
  });

  it("keeps what is likely enough beside the likeliest", () => {
    deepEqual(drawnTokens({ minP: 0.45 }, 0.1, 0.4, 0.2, 0.3), [1, 2, 3]);
    deepEqual(drawnTokens({ minP: 1 }, 0.1, 0.4, 0.2, 0.3), [1]);
  });

  it("cuts one after the other, top-p on what top-k and min-p kept", () => {
    deepEqual(drawnTokens({ topK: 3, topP: 0.75 }, 0.1, 0.4, 0.2, 0.3), [1, 3]);
    deepEqual(drawnTokens({ minP: 0.6, topP: 0.5 }, 0.1, 0.4, 0.2, 0.3), [1]);
    deepEqual(drawnTokens({ minP: 0.6, topK: 3 }, 0.1, 0.4, 0.2, 0.3), [1, 3]);
  });

  it("finds the same nucleus as a full sort in a large vocabulary", () => {
    const size = 5000;
    const logits = Float32Array.from({ length: size }, (_, i) => 6 * Math.sin(i * i));
    const weights = Array.from(logits, (logit) => Math.exp(logit));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const order = [...weights.keys()].sort((a, b) => weights[b]! - weights[a]!);
    let [count, mass] = [0, 0];
    while (mass < 0.4 * total) mass += weights[order[count++]!]!;
    const nucleus = new Set(order.slice(0, count));
    const drawn = sampler({ topP: 0.4 });
    const seen = new Set<number>();
    for (let i = 0; i < 3000; i++) seen.add(drawn.sample(logits).token);
    ok(seen.size > nucleus.size / 2);
    ok([...seen].every((token) => nucleus.has(token)));
  });

  it("repeats with a seed and differs with another", () => {
    const draw = (seed: number) => {
      const drawn = sampler({ seed });
      return Array.from({ length: 30 }, () => drawn.sample(logitsOf(0.3, 0.3, 0.4)).token).join("");
    };
    equal(draw(11), draw(11));
    ok(draw(11) !== draw(12));
  });

  it("draws a first token as evenly over seeds as over the draws of one", () => {
    const cells = 16;
    const even = logitsOf(...Array.from({ length: cells }, () => 1 / cells));
    for (const draws of [1, 2]) {
      const counts = new Array<number>(cells).fill(0);
      for (let seed = 0; seed < 4000; seed++) {
        const drawn = sampler({ seed });
        for (let i = 1; i < draws; i++) drawn.sample(even);
        counts[drawn.sample(even).token]!++;
      }
      const mean = 4000 / cells;
      const chiSquared = counts.reduce((sum, count) => sum + (count - mean) ** 2 / mean, 0);
      // Beyond it lie 0.1 % of even draws; the seeds are always the same.
      ok(chiSquared < 37.7, `draw ${draws}: ${counts}`);
    }
  });

  it("makes tokens of prompt and answer less likely by the repetition penalty", () => {
    const greedy = sampler({ temperature: 0, repetitionPenalty: 2 }, [0]);
    const logits = () => Float32Array.of(3, 2, 1.2, -1);
    deepEqual([greedy.sample(logits()).token, greedy.sample(logits()).token], [1, 0]);
    const negative = sampler({ temperature: 0, repetitionPenalty: 2 }, [0]);
    equal(negative.sample(Float32Array.of(-1, -1.5)).token, 1);
  });

  it("makes tokens of the answer less likely by presence and frequency, the prompt not", () => {
    const logits = () => Float32Array.of(3, 2.2, 0);
    const presence = sampler({ temperature: 0, presencePenalty: 1 }, [0]);
    deepEqual(Array.from({ length: 4 }, () => presence.sample(logits()).token), [0, 1, 0, 0]);
    const frequency = sampler({ temperature: 0, frequencyPenalty: 1 }, [0]);
    deepEqual(Array.from({ length: 5 }, () => frequency.sample(logits()).token), [0, 1, 0, 1, 0]);
  });

  it("reports the model's own log-probabilities whatever the penalties", () => {
    const probabilities = [0.1, 0.4, 0.2, 0.3];
    const greedy = sampler({ temperature: 0, logprobs: 2, presencePenalty: 2 });
    for (const token of [1, 3]) {
      const sample = greedy.sample(logitsOf(...probabilities));
      equal(sample.token, token);
      isNear([Math.exp(sample.logprobs!.logprob)], [probabilities[token]!]);
      deepEqual(sample.logprobs!.top.map((entry) => entry.token), [1, 3]);
      isNear(sample.logprobs!.top.map(({ logprob }) => Math.exp(logprob)), [0.4, 0.3]);
    }
    equal(sampler({}).sample(logitsOf(0.5, 0.5)).logprobs, null);
  });

  it("refuses logits that are not finite", () => {
    throws(() => sampler({}).sample(Float32Array.of(NaN, NaN)), /the largest logit is -Infinity/);
    throws(() => sampler({ temperature: 0 }).sample(Float32Array.of(0, Infinity)), RangeError);
  });
});
