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

  it("knows the special tokens that the tokenizer has", () => {
    const source = "{{ pad_token }}{% if unk_token is defined or mask_token is defined %}more{% endif %}";
    equal(
      chatTemplateOf({ chat_template: source, pad_token: "<pad>", unk_token: "", mask_token: null })?.render(ask),
      "<pad>",
    );
  });

  it("joins what is not defined as nothing, wherever it stands", () => {
    const rendered = (source: string) => chatTemplateOf({ chat_template: source, bos_token: null })?.render(ask);
    equal(rendered("{{ bos_token ~ messages[0].content ~ messages[0].name }}"), " Hi? ");
    equal(rendered("{% for m in messages %}{% if m.role == 'user' %}{{ eos_token ~ 1 }}{% endif %}{% endfor %}"), "1");
    equal(rendered("{{ {eos_token ~ 'a': bos_token ~ 'b'}['a'] }}"), "b");
    equal(rendered("{% set x = bos_token ~ bos_token %}{% macro m() %}{{ x ~ x ~ 'c' }}{% endmacro %}{{ m() }}"), "c");
    // Which Jinja2 refuses too.
    throws(() => rendered("{{ bos_token + 'a' }}"), ChatTemplateError);
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
    throws(() => chatTemplateOf({ chat_template: "a", eos_token: 5 }), { message: "eos_token is malformed" });
  });
});
