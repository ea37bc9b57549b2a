import { deepEqual, equal, match } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { toyAnswer } from "../../engine/testing/toy_runner.ts";
import { toyTokenizer } from "../../engine/testing/toy_tokenizer.ts";
import { type ChatMessage, ChatTemplateError } from "../../models/chat_template.ts";
import { readDocuments, sendTo, toyApp } from "../testing/toy_app.ts";

/** Contents in a row; it takes no conversation that the system begins. */
const chatTemplate = {
  render(messages: readonly ChatMessage[]): string {
    if (messages[0]!.role === "system") throw new ChatTemplateError("no system message, please");
    return messages.map(({ content }) => content).join(" ");
  },
};
const ask = (body: unknown) => sendTo(toyApp({}, { chatTemplate }).app, "/v1/chat/completions", body);

/** Each by itself is bad too, and is not looked at. */
const PAIRS_17 = Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`key ${i}`, 1]));

const messages = [{ role: "user", content: "ab" }];
const GREEDY = { model: "toy", messages, max_completion_tokens: 4, temperature: 0 };
const stream = toyTokenizer.stream({ continues: true });
const TEXT = toyAnswer([1, 2], 0, 4).map((token) => stream.push(token)).join("");

describe("POST /v1/chat/completions", () => {
  it("answers as OpenAI does", async () => {
    const { created: _, espalier, ...answer } = await (await ask(GREEDY)).json();
    deepEqual(answer, {
      id: "chatcmpl-id-0",
      object: "chat.completion",
      model: "toy",
      choices: [{
        index: 0,
        message: { role: "assistant", content: TEXT, refusal: null },
        logprobs: null,
        finish_reason: "length",
      }],
      usage: { prompt_tokens: 2, completion_tokens: 4, total_tokens: 6 },
    });
    equal(espalier.reason, "idle");
  });

  it("logs the messages where the service was told to", async () => {
    const { app, logged } = toyApp({}, { chatTemplate, logPrompts: true });
    await sendTo(app, "/v1/chat/completions", GREEDY);
    deepEqual(logged.map(({ prompt }) => prompt), [messages]);
  });

  it("streams a role, pieces and a reason", async () => {
    const documents = await readDocuments(await ask({ ...GREEDY, stream: true }));
    equal(documents.pop(), "[DONE]");
    const deltas = documents.map((one) => one.choices[0].delta);
    deepEqual([deltas[0], deltas.at(-1)], [{ role: "assistant", content: "" }, {}]);
    equal(deltas.map(({ content = "" }) => content).join(""), TEXT);
    equal(documents.at(-1).choices[0].finish_reason, "length");
    deepEqual([...new Set(documents.map((one) => one.object))], ["chat.completion.chunk"]);
    equal(documents[0].espalier.pruning_rate, 0);
  });

  it("takes texts in parts, and its own answers back", async () => {
    const { choices } = await (await ask(GREEDY)).json();
    const parts = [{ type: "text", text: "a" }, { type: "text", text: "b" }];
    const back = [{ role: "user", content: parts }, choices[0].message, { role: "developer", content: "c" }];
    const { usage } = await (await ask({ ...GREEDY, messages: back })).json();
    equal(usage.prompt_tokens, `ab ${TEXT} c`.length);
  });

  it("takes what client libraries send to say that they want nothing of it", async () => {
    const { choices } = await (await ask(GREEDY)).json();
    const nothing = {
      ...{ tools: [], tool_choice: "none", parallel_tool_calls: true, functions: [], function_call: "none" },
      ...{ store: false, metadata: {}, user: "a", prompt_cache_key: "a", prompt_cache_retention: "24h" },
      ...{
        n: 1,
        stop: [],
        logit_bias: {},
        response_format: { type: "text" },
        modalities: ["text"],
        service_tier: "auto",
      },
      ...{ audio: null, prediction: null, reasoning_effort: null, stream_options: null, top_logprobs: null },
    };
    const same = await (await ask({ ...GREEDY, ...nothing })).json();
    equal(same.choices[0].message.content, choices[0].message.content);
    const back = [
      { role: "user", content: "a" },
      { ...choices[0].message, tool_calls: [], audio: null },
      GREEDY.messages[0],
    ];
    equal((await ask({ ...GREEDY, messages: back })).status, 200);
  });

  it("gives as many tokens as fit when nothing is said", async () => {
    const { max_completion_tokens: _, ...rest } = GREEDY;
    equal((await (await ask(rest)).json()).usage.completion_tokens, 62);
    equal((await (await ask({ ...rest, max_tokens: 3 })).json()).usage.completion_tokens, 3);
  });

  it("reports log-probabilities with bytes", async () => {
    const [{ logprobs }] = (await (await ask({ ...GREEDY, logprobs: true, top_logprobs: 2 })).json()).choices;
    equal(logprobs.content.length, 4);
    for (const { token, bytes, logprob, top_logprobs } of logprobs.content) {
      deepEqual(bytes, [...new TextEncoder().encode(token)]);
      deepEqual([top_logprobs.length, top_logprobs[0]], [2, { token, bytes, logprob }]);
    }
    const [{ logprobs: bare }] = (await (await ask({ ...GREEDY, logprobs: true })).json()).choices;
    deepEqual(bare.content[0].top_logprobs, []);
  });

  it("says what is missing when the model takes no conversations", async () => {
    const response = await sendTo(toyApp().app, "/v1/chat/completions", GREEDY);
    equal(response.status, 400);
    match((await response.json()).error.message, /has no chat_template in its tokenizer_config\.json/);
  });

  it("says how many parts a message can have", async () => {
    const content = Array.from({ length: 1025 }, () => ({ type: "text", text: "" }));
    const { error } = await (await ask({ ...GREEDY, messages: [{ role: "user", content }] })).json();
    match(error.message, /1 to 1024 parts/);
  });

  const refusals: readonly [string, Record<string, unknown>, number, string][] = [
    ["no messages", { messages: [] }, 400, "messages"],
    [
      "a conversation that the template refuses",
      {
        messages: [{ role: "system", content: "a" }],
      },
      400,
      "messages",
    ],
    [
      "notes on a message",
      { messages: [{ role: "assistant", content: "", annotations: [1, 2] }] },
      400,
      "messages.0.annotations",
    ],
    ["metadata of more pairs than OpenAI has", { metadata: PAIRS_17 }, 400, "metadata"],
    ["a picture", { messages: [{ role: "user", content: [{ type: "image_url" }] }] }, 400, "messages.0.content"],
    ["tools", { tools: [{ type: "function", function: { name: "f" } }] }, 400, "tools"],
    ["a choice of tools", { tool_choice: "auto" }, 400, "tool_choice"],
    ["functions", { functions: [{ name: "f" }] }, 400, "functions"],
    ["answers that are kept", { store: true }, 400, "store"],
    [
      "calls of tools",
      { messages: [{ role: "assistant", content: "", tool_calls: [{}] }] },
      400,
      "messages.0.tool_calls",
    ],
    ["a participant's name", { messages: [{ role: "user", content: "a", name: "b" }] }, 400, "messages.0.name"],
    ["an unknown field of a message", { messages: [{ role: "user", content: "a", x: 1 }] }, 400, "messages.0.x"],
    ["a degree of reasoning", { reasoning_effort: "low" }, 400, "reasoning_effort"],
    ["a role of tools", { messages: [{ role: "tool", content: "a" }] }, 400, "messages.0.role"],
    ["JSON as a format", { response_format: { type: "json_object" } }, 400, "response_format.type"],
    ["top log-probabilities alone", { top_logprobs: 1 }, 400, "top_logprobs"],
    ["two lengths", { max_tokens: 5 }, 400, "max_tokens"],
    ["too many tokens", { max_completion_tokens: 63 }, 413, "max_completion_tokens"],
    ["too long a conversation", { messages: [{ role: "user", content: "a".repeat(64) }] }, 413, "messages"],
  ];
  for (const [name, fields, status, param] of refusals) {
    it(`refuses ${name}`, async () => {
      const response = await ask({ ...GREEDY, ...fields });
      deepEqual([response.status, (await response.json()).error.param], [status, param]);
    });
  }
});
