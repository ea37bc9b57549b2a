import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import OpenAI, { APIError, APIUserAbortError } from "openai";
import { fileURLToPath } from "node:url";
import { finishArtefact } from "../models/artefact_writer.ts";
import { Service } from "./support/service.ts";

const DEMO = fileURLToPath(new URL("../artifacts/demo", import.meta.url));
const TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}\n{% endfor %}";
const KEY = "a key for this test alone";
const PROMPT = "Once upon a time";
const GREEDY = { model: "demo", max_tokens: 12, temperature: 0 };
const messages = [{ role: "user" as const, content: PROMPT }];

/** The demo is no chat model: a copy of it is given a template. */
async function copyDemo(folder: string, chat_template: string): Promise<void> {
  const json = async (name: string) => JSON.parse(await Deno.readTextFile(`${DEMO}/${name}`));
  await Deno.copyFile(`${DEMO}/weights.safetensors`, `${folder}/weights.safetensors`);
  const { files: _, format: _format, version: _version, checksum: _checksum, ...draft } = await json("espalier.json");
  const tokenizerConfig = { ...await json("tokenizer_config.json"), chat_template };
  await finishArtefact(folder, draft, { tokenizerJson: await json("tokenizer.json"), tokenizerConfig });
}

describe("The official OpenAI client", () => {
  let folder: string;
  let service: Service;
  let url: string;
  let client: OpenAI;

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    await copyDemo(folder, TEMPLATE);
    service = await Service.start("--model", folder, "--api-keys", KEY);
    url = `http://127.0.0.1:${service.port}`;
    client = new OpenAI({ baseURL: `${url}/v1`, apiKey: KEY, maxRetries: 0 });
  });
  afterAll(async () => {
    await service?.[Symbol.asyncDispose]();
    await Deno.remove(folder, { recursive: true });
  });

  it("lists the models", async () => {
    const names = (await Array.fromAsync(client.models.list())).map(({ id }) => id);
    ok(names.includes("demo") && names.includes("demo@0.35"), names.join());
    equal((await client.models.retrieve("demo@0.35")).id, "demo@0.35");
  });

  it("completes, in one answer and as a stream", async () => {
    const whole = await client.completions.create({ ...GREEDY, prompt: PROMPT });
    const [choice] = whole.choices;
    deepEqual([choice!.finish_reason, whole.usage!.completion_tokens, whole.model], ["length", 12, "demo"]);
    ok(choice!.text.length > 12, choice!.text);

    const stream = await client.completions.create({
      ...GREEDY,
      prompt: PROMPT,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = await Array.fromAsync(stream);
    equal(chunks.map(({ choices }) => choices[0]?.text ?? "").join(""), choice!.text);
    deepEqual(chunks.at(-1)!.usage, whole.usage);
  });

  it("chats, in one answer and as a stream", async () => {
    const whole = await client.chat.completions.create({ ...GREEDY, messages });
    const [choice] = whole.choices;
    deepEqual([choice!.message.role, choice!.finish_reason], ["assistant", "length"]);
    const stream = client.chat.completions.stream({ ...GREEDY, messages, stream_options: { include_usage: true } });
    const pieces: string[] = [];
    stream.on("content", (piece) => pieces.push(piece));
    const streamed = await stream.finalChatCompletion();
    equal(pieces.join(""), choice!.message.content);
    deepEqual([streamed.choices[0]!.message.content, streamed.usage], [choice!.message.content, whole.usage]);

    const turns = [...messages, choice!.message, streamed.choices[0]!.message, {
      role: "user" as const,
      content: "And then?",
    }];
    const next = await client.chat.completions.create({ ...GREEDY, messages: turns });
    ok(next.usage!.prompt_tokens > whole.usage!.total_tokens);
  });

  it("answers what /generate answers to the same text", async () => {
    const { choices } = await client.chat.completions.create({ ...GREEDY, messages });
    const body = JSON.stringify({ prompt: `${PROMPT}\n`, max_new_tokens: 12, temperature: 0 });
    const headers = { Authorization: `Bearer ${KEY}` };
    const { text } = await (await fetch(`${url}/generate`, { method: "POST", body, headers })).json();
    equal(choices[0]!.message.content, text);
  });

  it("reads log-probabilities of both kinds", async () => {
    const completion = await client.completions.create({ ...GREEDY, prompt: PROMPT, logprobs: 3 });
    const { tokens, token_logprobs, top_logprobs } = completion.choices[0]!.logprobs!;
    equal(tokens!.join(""), completion.choices[0]!.text);
    for (const [i, token] of tokens!.entries()) {
      equal(top_logprobs![i]![token], token_logprobs![i]);
      equal(Math.max(...Object.values(top_logprobs![i]!)), token_logprobs![i]);
    }
    const chat = await client.chat.completions.create({ ...GREEDY, messages, logprobs: true, top_logprobs: 2 });
    for (const { token, bytes, logprob, top_logprobs } of chat.choices[0]!.logprobs!.content!) {
      deepEqual(top_logprobs[0], { token, bytes, logprob });
      ok(logprob <= 0 && top_logprobs[1]!.logprob <= logprob);
    }
  });

  it("pins a rate by the model's name, and asks for a budget by headers", async () => {
    const pinned = await client.completions.create({ ...GREEDY, model: "demo@0.35", prompt: PROMPT }).withResponse();
    equal(pinned.response.headers.get("X-Pruning-Rate"), "0.35");
    const hurried = await client.completions.create({ ...GREEDY, prompt: PROMPT }, {
      headers: { "X-Latency-Budget-Ms": "1", "X-Max-Pruning-Rate": "0.2" },
    }).withResponse();
    equal(hurried.response.headers.get("X-Pruning-Rate"), "0.2");
  });

  it("stops at a string and repeats itself with a seed", async () => {
    const { choices } = await client.completions.create({ ...GREEDY, prompt: PROMPT });
    const stop = choices[0]!.text.slice(5, 8);
    const stopped = await client.completions.create({ ...GREEDY, prompt: PROMPT, stop });
    deepEqual([stopped.choices[0]!.finish_reason, stopped.choices[0]!.text.includes(stop)], ["stop", false]);
    const told = await Promise.all([3, 3, 4].map(async (seed) => {
      const sampled = { ...GREEDY, prompt: PROMPT, temperature: 1.5, max_tokens: 24, seed };
      return (await client.completions.create(sampled)).choices[0]!.text;
    }));
    ok(told[0] === told[1] && told[0] !== told[2], told.join("\n"));
  });

  it("is told by its own error classes what was wrong", async () => {
    const tool = { role: "tool" as const, tool_call_id: "a", content: "1" };
    const response_format = { type: "json_object" as const };
    const cases: [() => Promise<unknown>, number, string][] = [
      [() => client.models.retrieve("gpt"), 404, "model"],
      [() => client.completions.create({ ...GREEDY, model: "gpt", prompt: "a" }), 404, "model"],
      [() => client.completions.create({ ...GREEDY, prompt: "a", n: 2 }), 400, "n"],
      [() => client.completions.create({ ...GREEDY, prompt: ["a", "b"] }), 400, "prompt"],
      [
        () =>
          client.chat.completions.create({
            ...GREEDY,
            messages,
            tools: [{ type: "function", function: { name: "f" } }],
          }),
        400,
        "tools",
      ],
      [() => client.chat.completions.create({ ...GREEDY, messages: [tool] }), 400, "messages.0.role"],
      [() => client.chat.completions.create({ ...GREEDY, messages, response_format }), 400, "response_format.type"],
    ];
    for (const [ask, status, param] of cases) {
      await rejects(ask, (error) => {
        ok(error instanceof APIError);
        deepEqual([error.status, error.param], [status, param]);
        match(error.message, status === 404 ? /There is no model "gpt"/ : /supported/);
        return true;
      });
    }
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "another key entirely", maxRetries: 0 });
    await rejects(stranger.models.list(), (error) => error instanceof OpenAI.AuthenticationError);
  });

  it("can leave a stream, and the service goes on", async () => {
    const stream = await client.chat.completions.create({ ...GREEDY, max_tokens: 400, messages, stream: true });
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
    const leaving = new AbortController();
    const left = client.completions.create({ ...GREEDY, max_tokens: 400, prompt: PROMPT }, { signal: leaving.signal });
    leaving.abort();
    await rejects(left, APIUserAbortError);
    match((await client.completions.create({ ...GREEDY, prompt: PROMPT })).choices[0]!.text, /\w/);
  });
});
