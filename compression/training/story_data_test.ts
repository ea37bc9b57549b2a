import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, notDeepEqual, ok } from "node:assert/strict";
import { Tokenizer } from "../../models/tokenizer.ts";
import { prepareStories } from "./story_data.ts";

const STORIES = Array.from({ length: 40 }, (_, i) => `Tom has ${i} red cars and Lily has ${40 - i} blue balls.`);
const EXTRA = ["Tom is home.", "Lily is home."];

describe("prepareStories()", () => {
  const data = prepareStories(STORIES, { extra: EXTRA, vocabSize: 290, seed: 1 });
  const tokenizer = new Tokenizer(data.tokenizer);
  const told = (tokens: Uint16Array) => {
    const text = Array.from(tokens, (id) => id === 0 ? "\n" : tokenizer.decode([id], { continues: true })).join("");
    return text.slice(1).split("\n");
  };

  it("holds out every twentieth story", () => {
    deepEqual(data.heldOutStories, [STORIES[19], STORIES[39]]);
    deepEqual(data.learnedStories, STORIES.filter((_, i) => i % 20 !== 19));
    deepEqual(told(data.heldOut), [STORIES[19], STORIES[39]]);
  });

  it("tells every other story in each epoch, in its order, about others", () => {
    const [first, second] = [data.epoch(0, false), data.epoch(1, false)];
    const numbers = (stories: string[]) => stories.map((story) => story.match(/\d+/)![0]);
    const learned = STORIES.filter((_, i) => i % 20 !== 19);
    deepEqual(numbers(told(first.tokens)), numbers(learned));
    notDeepEqual(first.tokens, second.tokens);
    const changed = told(first.tokens).filter((story, i) => story !== learned[i]).length;
    ok(changed > 15 && changed < 38, `${changed}`); // three in four, and chance may give them their own names
    deepEqual(data.epoch(1, false), second);
  });

  it("adds the extra stories as they are where they are wanted", () => {
    deepEqual(told(data.epoch(3, true).tokens).slice(-2), EXTRA);
    equal(data.epoch(3, true).tokens.length, data.epoch(3, false).tokens.length + data.extraTokens);
  });
});
