import { describe, it } from "@std/testing/bdd";
import { equal, throws } from "node:assert/strict";
import { ChatTemplateError, chatTemplateOf } from "./chat_template.ts";

const CHATML = "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n" +
  "{{ message['content'] | trim }}<|im_end|>\n{% endfor %}" +
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}" +
  "{{ messages[0].content }}{{ eos_token }}";

const ask = [{ role: "user", content: " Hi? " }];

describe("chatTemplateOf()", () => {
  it("renders the messages up to where the answer begins", () => {
    const template = chatTemplateOf({ chat_template: CHATML, bos_token: "<s>", eos_token: "</s>" });
    equal(
      template?.render([{ role: "system", content: "Be kind." }, ...ask]),
      "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n",
    );
  });

  it("takes tokens with settings, and none", () => {
    equal(chatTemplateOf({ chat_template: REFUSING, eos_token: { content: "</s>" } })?.render(ask), " Hi? </s>");
    equal(chatTemplateOf({ chat_template: REFUSING, bos_token: null })?.render(ask), " Hi? ");
  });

  it("knows of no tools, no documents and no token that the tokenizer lacks", () => {
    const source = "{% if tools is not none or documents is not none %}tools{% endif %}" +
      "{% if bos_token is defined %}begin{% endif %}{{ eos_token }}{{ messages[0].content }}";
    equal(chatTemplateOf({ chat_template: source, eos_token: "</s>" })?.render(ask), "</s> Hi? ");
  });

  it("takes the default of several templates", () => {
    const templates = [{ name: "tool_use", template: "tools" }, {
      name: "default",
      template: "{{ messages[0].content }}",
    }];
    equal(chatTemplateOf({ chat_template: templates })?.render(ask), " Hi? ");
  });

  it("is null where there is no template", () => {
    equal(chatTemplateOf({}), null);
    equal(chatTemplateOf({ chat_template: null }), null);
    equal(chatTemplateOf({ chat_template: [{ name: "tool_use", template: "tools" }] }), null);
  });

  it("passes on why a template refuses the messages", () => {
    const template = chatTemplateOf({ chat_template: REFUSING })!;
    throws(
      () => template.render([{ role: "system", content: "Be kind." }]),
      (error) => error instanceof ChatTemplateError && /no system message, please/.test(error.message),
    );
  });

  it("refuses a template that cannot be parsed", () => {
    throws(() => chatTemplateOf({ chat_template: "{% if %}" }), ChatTemplateError);
    throws(() => chatTemplateOf({ chat_template: 5 }), ChatTemplateError);
  });
});
