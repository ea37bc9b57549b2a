import { equal, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { AnswerLengths } from "./answer_lengths.ts";

/** After answers of so many tokens that ended by themselves, and others that were cut off. */
function lengthsOf({ ended = [], cut = [] }: { ended?: number[]; cut?: number[] }): AnswerLengths {
  const lengths = new AnswerLengths();
  for (const tokens of ended) lengths.add({ tokens, ended: true });
  for (const tokens of cut) lengths.add({ tokens, ended: false });
  return lengths;
}

function near(actual: number, expected: number): void {
  ok(Math.abs(actual - expected) < 1e-9, `${actual}, not ${expected}`);
}

const times = (count: number, tokens: number) => new Array<number>(count).fill(tokens);

describe("AnswerLengths", () => {
  it("expects all that an answer may have while nothing is known", () => {
    const lengths = lengthsOf({});
    equal(lengths.remaining(0, 100), 100);
    equal(lengths.remaining(30, 100), 70);
  });

  it("expects all that an answer may have where all were cut off by what they might have", () => {
    const lengths = lengthsOf({ cut: [3, 8, 8, 50] });
    for (const maxTokens of [1, 8, 20, 50, 400]) equal(lengths.remaining(0, maxTokens), maxTokens);
    equal(lengths.remaining(10, 400), 390);
  });

  it("expects the mean of those that ended, each cut off where this one would be", () => {
    // Of two and the longer one that is assumed, two thirds are longer than 2, and one third than 4.
    const lengths = lengthsOf({ ended: [4, 2] });
    near(lengths.remaining(0, 1), 1);
    near(lengths.remaining(0, 3), 2 + 2 / 3);
    near(lengths.remaining(0, 4), 2 + 2 * 2 / 3);
    // A fifth token comes to a third of all; beyond four, one follows as often as it did up to there.
    near(lengths.remaining(0, 6), 2 + 2 * 2 / 3 + (1 + (1 / 3) ** (1 / 4)) / 3);
    const many = lengthsOf({ ended: times(100, 10) }).remaining(0, 1000);
    ok(many > 10 && many < 10.1, `${many}`);
  });

  it("expects of an answer that goes on what those had that came so far: a token at least", () => {
    const lengths = lengthsOf({ ended: [4, 2] });
    near(lengths.remaining(2, 4), 2);
    near(lengths.remaining(3, 4), 1);
    near(lengths.remaining(3, 5), 1 + 1 / 2);
    const two = lengthsOf({ ended: [...times(50, 10), ...times(50, 200)] });
    ok(two.remaining(0, 1000) < 110 && two.remaining(10, 1000) > 190);
    const [atLongest, beyond] = [two.remaining(200, 1e6), two.remaining(300, 1e6)];
    near(beyond, atLongest);
    ok(beyond >= 1 && beyond < 200, `${beyond}`);
  });

  it("counts an answer that was cut off up to where it was, and no further", () => {
    // Three of four are longer than 2, one of two that came to 4 is longer than that.
    const mixed = lengthsOf({ ended: [2, 4], cut: [3] });
    near(mixed.remaining(0, 4), 2 + 2 * 3 / 4);
    near(mixed.remaining(0, 5), 2 + 2 * 3 / 4 + 3 / 8);
    // At a length at which others ended, it came to it as well.
    near(lengthsOf({ ended: [2], cut: [2] }).remaining(0, 3), 2 + 2 / 3);
    const [alone, beside] = [{}, { cut: times(50, 4) }].map((cut) => lengthsOf({ ended: times(50, 10), ...cut }));
    for (const [tokens, maxTokens] of [[0, 5], [0, 100], [10, 100], [30, 100]] as const) {
      equal(beside!.remaining(tokens, maxTokens), alone!.remaining(tokens, maxTokens));
    }
  });

  it("forgets all but the last hundred", () => {
    const now = [...times(60, 10), ...times(40, 20)];
    equal(
      lengthsOf({ ended: [...times(300, 500), ...now] }).remaining(0, 100),
      lengthsOf({ ended: now }).remaining(0, 100),
    );
  });
});
