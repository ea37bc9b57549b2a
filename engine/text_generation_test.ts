import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { GREEDY, toyEngine, toyRequest } from "./testing/toy_engine.ts";
import { TOY_VOCABULARY, ToyRunner } from "./testing/toy_runner.ts";
import { toyTokenizer } from "./testing/toy_tokenizer.ts";
import { generateText, type TextRequest } from "./text_generation.ts";

/** Runs a model that says these tokens whatever it is asked. */
async function say(
  tokens: number[],
  request: Partial<TextRequest> = {},
): Promise<{ texts: string[]; finishReason: string; count: number }> {
  const runner = new ToyRunner();
  let next = 0;
  runner.step = (entries) => {
    const logits = new Float32Array(TOY_VOCABULARY);
    logits[tokens[next++] ?? 26] = 1;
    return Promise.resolve(entries.map(() => logits));
  };
  const { engine } = toyEngine({ runner });
  const events = await Array.fromAsync(generateText(
    engine,
    { ...toyRequest({ maxNewTokens: tokens.length }), stop: [], ...request },
    toyTokenizer,
    new AbortController().signal,
  ));
  const end = events.at(-1)!;
  if (end.kind !== "end") throw new TypeError(`The last event is ${end.kind}`);
  return {
    texts: events.flatMap((event) => event.kind === "token" ? [event.text] : []),
    finishReason: end.finishReason,
    count: end.completionTokens,
  };
}
const letters = (text: string) => toyTokenizer.encode(text);

describe("generateText()", () => {
  it("gives the text of each token", async () => {
    deepEqual(await say(letters("abc")), { texts: ["a", "b", "c"], finishReason: "length", count: 3 });
  });

  it("keeps the parts of a character together", async () => {
    deepEqual((await say([1, 28, 29, 2])).texts, ["a", "", "é", "b"]);
    deepEqual((await say([1, 28])).texts, ["a", "\ufffd"]);
  });

  it("stops at a stop string across tokens and keeps it out of the text", async () => {
    const { texts, finishReason, count } = await say(letters("one stop two"), { stop: ["stop"] });
    deepEqual([texts.join(""), finishReason, count], ["one ", "stop", 8]);
  });

  it("gives the text that was held back with the last token", async () => {
    deepEqual((await say(letters("sto"), { stop: ["stop"] })).texts, ["", "", "sto"]);
    deepEqual((await say([...letters("st"), 0, 1], { stop: ["stop"] })).texts, ["", "", "st"]);
  });

  it("asks for no text without a tokenizer", async () => {
    const { engine } = toyEngine();
    const request = { ...toyRequest({ sampling: GREEDY }), stop: [] };
    const events = await Array.fromAsync(generateText(engine, request, null, new AbortController().signal));
    equal(events.flatMap((event) => event.kind === "token" ? [event.text] : []).join(""), "");
  });
});
