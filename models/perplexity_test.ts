import { equal, ok, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { perplexityOf, perplexityRatio, type WindowLoss } from "./perplexity.ts";

const TOKENS = 31;

/** Windows as long as each other, of the given mean losses. */
function windowsOf(means: readonly number[]): WindowLoss[] {
  return means.map((mean) => ({ loss: TOKENS * mean, tokens: TOKENS }));
}

function isClose(actual: number | null, expected: number): void {
  ok(actual !== null && Math.abs(actual - expected) < 1e-12 * Math.abs(expected), `${actual}, not ${expected}`);
}

describe("perplexityOf()", () => {
  it("is exp of the mean loss, with the error of a mean of windows", () => {
    const means = [2.9, 3.3, 3.1, 2.5, 3.6];
    const { perplexity, tokens, standardError } = perplexityOf(windowsOf(means));
    const mean = (2.9 + 3.3 + 3.1 + 2.5 + 3.6) / 5;
    const variance = means.reduce((sum, one) => sum + (one - mean) ** 2, 0) / 4;
    isClose(perplexity, Math.exp(mean));
    equal(tokens, 5 * TOKENS);
    isClose(standardError, Math.exp(mean) * Math.sqrt(variance / 5));
  });

  it("weighs windows by their tokens", () => {
    const { perplexity } = perplexityOf([{ loss: 30, tokens: 10 }, { loss: 40, tokens: 30 }]);
    isClose(perplexity, Math.exp(70 / 40));
  });

  it("has an error that covers what other windows of the same kind would give", () => {
    // Windows differ by 0.3 in their mean losses; so do 20 of them by 0.3 / √20, from one text to the next.
    let state = 1;
    const uniform = () => (state = state * 48_271 % 0x7fffffff) / 0x7fffffff;
    const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    let covered = 0;
    for (let text = 0; text < 500; text++) {
      const { perplexity, standardError } = perplexityOf(
        windowsOf(Array.from({ length: 20 }, () => 3 + 0.3 * normal())),
      );
      if (Math.abs(perplexity - Math.exp(3)) < 2 * standardError!) covered++;
    }
    ok(covered > 455 && covered < 490, `${covered} of 500`); // 94 % by Student's t of 19 degrees of freedom
  });

  it("is none where nothing counts, or what counts is not finite", () => {
    throws(() => perplexityOf([{ loss: 0, tokens: 0 }]), { name: "RangeError", message: /no token/ });
    for (const loss of [NaN, Infinity, 1e6]) {
      throws(() => perplexityOf([{ loss: 3, tokens: 1 }, { loss, tokens: 1 }]), {
        name: "RangeError",
        message: /the mean loss is/,
      });
    }
  });

  it("has no error of one window", () => {
    equal(perplexityOf(windowsOf([3])).standardError, null);
  });
});

describe("perplexityRatio()", () => {
  it("knows what one costs more than another far better than either", () => {
    const [easy, hard] = [[1, 5, 2, 7], [1.1, 5.1, 2.1, 7.1]].map((means) => perplexityOf(windowsOf(means)));
    const { ratio, standardError } = perplexityRatio(hard!, easy!);
    isClose(ratio, Math.exp(0.1));
    ok(standardError! < 1e-12 && easy!.standardError! > 1);
    const self = perplexityRatio(easy!, easy!);
    equal(self.ratio, 1);
    equal(self.standardError, 0);
  });

  it("compares the same windows only", () => {
    const one = perplexityOf(windowsOf([1, 2]));
    throws(() => perplexityRatio(one, perplexityOf(windowsOf([1]))), RangeError);
    throws(() => perplexityRatio(one, perplexityOf([{ loss: 1, tokens: 2 }, { loss: 1, tokens: 2 }])), RangeError);
  });
});
