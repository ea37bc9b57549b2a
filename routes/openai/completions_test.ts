import { deepEqual, equal, match, notEqual, ok } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { toyAnswer, ToyRunner } from "../../engine/testing/toy_runner.ts";
import { toyTokenizer } from "../../engine/testing/toy_tokenizer.ts";
import { readDocuments, sendTo, toyApp } from "../testing/toy_app.ts";

const GREEDY = { model: "toy", prompt: "a", max_tokens: 4, temperature: 0 };
const textOf = (tokens: number[]) => {
  const stream = toyTokenizer.stream({ continues: true });
  return tokens.map((token) => stream.push(token)).join("") + stream.flush();
};
const ask = (body: unknown, headers: Record<string, string> = {}, app = toyApp().app) =>
  sendTo(app, "/v1/completions", body, { headers });

describe("POST /v1/completions", () => {
  it("answers as OpenAI does, and says besides what our own API says", async () => {
    const response = await ask({ ...GREEDY, max_pruning_rate: 0.15, latency_budget_ms: 1 });
    deepEqual([response.status, response.headers.get("X-Pruning-Rate")], [200, "0.15"]);
    const { created, espalier, ...answer } = await response.json();
    ok(Number.isInteger(created));
    deepEqual(answer, {
      id: "cmpl-id-0",
      object: "text_completion",
      model: "toy",
      choices: [{ index: 0, text: textOf(toyAnswer([1], 1, 4)), logprobs: null, finish_reason: "length" }],
      usage: { prompt_tokens: 1, completion_tokens: 4, total_tokens: 5 },
    });
    deepEqual([espalier.pruning_rate, espalier.finish_reason, espalier.budget.latency_budget_ms], [0.15, "length", 1]);
  });

  it("logs the prompt where the service was told to", async () => {
    const { app, logged } = toyApp({}, { logPrompts: true });
    await ask({ ...GREEDY, prompt: ["a"] }, {}, app);
    deepEqual(logged.map(({ prompt }) => prompt), ["a"]);
  });

  it("streams the text that one answer has whole, then a reason, the usage if wanted, and [DONE]", async () => {
    const { choices } = await (await ask(GREEDY)).json();
    for (const include_usage of [false, true]) {
      const response = await ask({ ...GREEDY, stream: true, stream_options: { include_usage } });
      equal(response.headers.get("Content-Type"), "text/event-stream");
      const documents = await readDocuments(response);
      equal(documents.pop(), "[DONE]");
      const last = include_usage ? documents.pop() : null;
      deepEqual(
        last && [last.choices, last.usage],
        include_usage
          ? [[], {
            prompt_tokens: 1,
            completion_tokens: 4,
            total_tokens: 5,
          }]
          : null,
      );
      equal(documents.map((one) => one.choices[0].text).join(""), choices[0].text);
      deepEqual(documents.map((one) => one.choices[0].finish_reason), [null, null, null, null, "length"]);
      ok(
        documents.every((one) => one.object === "text_completion" && one.usage === (include_usage ? null : undefined)),
      );
      equal(documents.at(-1).espalier.reason, "idle");
    }
  });

  it("takes one prompt in every form", async () => {
    const [{ text }] = (await (await ask(GREEDY)).json()).choices;
    for (const prompt of [["a"], [1], [[1]]]) {
      equal((await (await ask({ ...GREEDY, prompt })).json()).choices[0].text, text);
    }
  });

  it("stops at a string, given alone or in a list", async () => {
    const whole = textOf(toyAnswer([1], 0, 8));
    for (const stop of [whole[2]!, ["zz", whole[2]!]]) {
      const [choice] = (await (await ask({ ...GREEDY, max_tokens: 8, stop })).json()).choices;
      deepEqual([choice.text, choice.finish_reason], [whole.slice(0, whole.indexOf(whole[2]!)), "stop"]);
    }
  });

  it("gives 16 tokens when nothing is said, and the same for the same seed", async () => {
    equal((await (await ask({ prompt: "a", temperature: 0 })).json()).usage.completion_tokens, 16);
    const texts = await Promise.all([-5, -5, 7].map(async (seed) => {
      return (await (await ask({ prompt: "a", temperature: 1.5, seed })).json()).choices[0].text;
    }));
    equal(texts[0], texts[1]);
    notEqual(texts[0], texts[2]);
  });

  it("reports log-probabilities in four lists in step", async () => {
    const [{ text, logprobs }] = (await (await ask({ ...GREEDY, logprobs: 2 })).json()).choices;
    deepEqual(logprobs.tokens.join(""), text);
    deepEqual(logprobs.text_offset, [0, 1, 2, 3]);
    for (const [i, token] of logprobs.tokens.entries()) {
      equal(logprobs.top_logprobs[i][token], logprobs.token_logprobs[i]);
      equal(Object.keys(logprobs.top_logprobs[i]).length, 2);
    }
    const documents = await readDocuments(await ask({ ...GREEDY, logprobs: 2, stream: true }));
    deepEqual(
      documents.slice(0, 4).map((one) => one.choices[0].logprobs.text_offset[0]),
      logprobs.text_offset,
    );
  });

  it("pins the rate that the model's name says", async () => {
    const { espalier, choices } = await (await ask({ ...GREEDY, model: "toy@0.35" })).json();
    deepEqual([espalier.pruning_rate, espalier.reason], [0.35, "pinned"]);
    equal(choices[0].text, textOf(toyAnswer([1], 2, 4)));
  });

  it("takes budget and rates as headers", async () => {
    const rates = async (headers: Record<string, string>) =>
      (await (await ask(GREEDY, headers)).json()).espalier.pruning_rate;
    equal(await rates({ "X-Latency-Budget-Ms": "1" }), 0.35);
    equal(await rates({ "X-Pruning-Rate": "0.35" }), 0.35);
    equal(await rates({ "X-Latency-Budget-Ms": "1", "X-Max-Pruning-Rate": "0" }), 0);
  });

  it("says that a budget ended the answer, in OpenAI's word and in ours", async () => {
    const clock = { ms: 0 };
    const now = () => clock.ms;
    const runner = new ToyRunner({ onStep: () => void (clock.ms += 10) });
    const body = { ...GREEDY, max_tokens: 40, latency_budget_ms: 50, on_miss: "truncate", pruning_rate: 0 };
    const { choices, espalier } = await (await ask(body, {}, toyApp({ runner, now }, { now }).app)).json();
    deepEqual([choices[0].finish_reason, espalier.finish_reason], ["length", "budget"]);
  });

  it("takes what client libraries send and changes nothing", async () => {
    const nulls = { n: null, stop: null, seed: null, logit_bias: null, top_p: null, user: null, stream: null };
    const ignored = { user: "me", metadata: { a: "b" }, store: false, n: 1, best_of: 1, echo: false, logit_bias: {} };
    for (const fields of [nulls, ignored]) equal((await ask({ ...GREEDY, ...fields })).status, 200);
  });

  it("ends a stream that fails with the error, and without [DONE]", async () => {
    const runner = new ToyRunner({ onStep: () => Promise.reject(new Error("secret detail")) });
    const documents = await readDocuments(await ask({ ...GREEDY, stream: true }, {}, toyApp({ runner }).app));
    deepEqual(documents, [{ error: { type: "server_error", message: "A step of the model failed", param: null } }]);
  });

  const refusals: readonly [string, Record<string, unknown>, number, string][] = [
    ["an unknown model", { model: "gpt" }, 404, "model"],
    ["a rate that is not prepared", { model: "toy@0.2" }, 404, "model"],
    ["two rates", { model: "toy@0.35", pruning_rate: 0 }, 400, "pruning_rate"],
    ["two answers", { n: 2 }, 400, "n"],
    ["two prompts", { prompt: ["a", "b"] }, 400, "prompt"],
    ["a prompt in the answer", { echo: true }, 400, "echo"],
    ["a suffix", { suffix: "z" }, 400, "suffix"],
    ["a bias", { logit_bias: { "5": 100 } }, 400, "logit_bias.5"],
    ["fields of the other API", { messages: [] }, 400, "messages"],
    ["our own name of a field", { max_new_tokens: 5 }, 400, "max_new_tokens"],
    ["options of a stream without one", { stream_options: { include_usage: true } }, 400, "stream_options"],
    ["too many tokens", { max_tokens: 100 }, 413, "max_tokens"],
    ["too long a prompt", { prompt: "a".repeat(64) }, 413, "prompt"],
    ["a foreign token", { prompt: [1, 99] }, 400, "prompt.1"],
    ["a temperature of 3", { temperature: 3 }, 400, "temperature"],
    ["half a seed", { seed: 0.5 }, 400, "seed"],
    ["a kept answer", { store: true }, 400, "store"],
  ];
  for (const [name, fields, status, param] of refusals) {
    it(`refuses ${name} by the caller's name of the field`, async () => {
      const response = await ask({ ...GREEDY, ...fields });
      deepEqual([response.status, (await response.json()).error.param], [status, param]);
    });
  }

  it("refuses a header that is out of its field's range by its own name", async () => {
    for (
      const [header, value] of [["X-Latency-Budget-Ms", "0"], ["X-Pruning-Rate", "1.5"], ["X-Max-Pruning-Rate", "2"]]
    ) {
      const response = await ask(GREEDY, { [header!]: value! });
      const { error } = await response.json();
      deepEqual([response.status, error.param], [400, header]);
      match(error.message, new RegExp(`^${header}: Too `));
    }
  });

  it("refuses a header that is no number, or says again what a field says", async () => {
    for (const value of ["fast", "-1", "NaN", "1e3", "0x10", ""]) {
      const response = await ask(GREEDY, { "X-Latency-Budget-Ms": value });
      deepEqual([response.status, (await response.json()).error.param], [400, "X-Latency-Budget-Ms"]);
    }
    equal((await ask({ ...GREEDY, pruning_rate: null }, { "X-Pruning-Rate": "0" })).status, 200);
    const twice = await ask({ ...GREEDY, pruning_rate: 0 }, { "X-Pruning-Rate": "0" });
    match((await twice.json()).error.message, /not both/);
    equal((await ask(GREEDY, { "X-Pruning-Rate": "0.2" })).status, 422);
  });
});
