import { deepEqual, equal, rejects, throws } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { ChatTemplateError, chatTemplateOf } from "./chat_template.ts";
import { ThreadedChatTemplate, threadedChatTemplateOf } from "./threaded_chat_template.ts";

const CONFIG = {
  chat_template: "{% if messages[0].role == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}" +
    "{{ bos_token }}{% for message in messages %}{{ message.content }}|{% endfor %}",
  bos_token: "<s>",
};
const said = (content: string) => [{ role: "user", content }];
/** Renders one conversation at once, and never comes to an end with another. */
const ENDLESS = "{% if messages[0].content == 'a' %}ok{% else %}" +
  "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}{% endif %}";

describe("ThreadedChatTemplate", () => {
  it("gives each of many conversations what a plain template gives", async () => {
    using template = threadedChatTemplateOf(CONFIG)!;
    const plain = chatTemplateOf(CONFIG)!;
    const conversations = Array.from({ length: 20 }, (_, i) => Array(1 + 100 * (i % 3)).fill(said(`${i}`)[0]));
    const texts = await Promise.all(conversations.map((messages) => template.render(messages)));
    deepEqual(texts, conversations.map((messages) => plain.render(messages)));
  });

  it("refuses what the template refuses, and goes on", async () => {
    using template = threadedChatTemplateOf(CONFIG)!;
    const refused = template.render([{ role: "system", content: "a" }]);
    const next = template.render(said("b"));
    await rejects(refused, (error) => error instanceof ChatTemplateError && /no system message/.test(error.message));
    equal(await next, "<s>b|");
  });

  it("ends what takes too long, leaves the event loop free meanwhile, and goes on with the next", async () => {
    const patience: AbortController[] = [];
    using template = new ThreadedChatTemplate({ chat_template: ENDLESS }, () => {
      patience.push(new AbortController());
      return patience.at(-1)!.signal;
    });
    equal(await template.render(said("a")), "ok");
    const ended = rejects(template.render(said("b")), { name: "ChatTemplateError", message: /takes too long/ });
    const next = template.render(said("a"));
    // Rendered here, it would let nobody have a turn.
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setTimeout(resolve));
    equal(patience.length, 2);
    patience[1]!.abort();
    await ended;
    equal(await next, "ok");
  });

  it("refuses a template that cannot be parsed at once, and is null where there is none", () => {
    throws(() => threadedChatTemplateOf({ chat_template: "{% for %}" }), ChatTemplateError);
    equal(threadedChatTemplateOf({}), null);
  });
});
