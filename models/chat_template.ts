import { Template } from "@huggingface/jinja";
import { z } from "zod";
import { joinUndefined } from "./join_undefined.ts";

/** One turn of a conversation. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

/** A template is wrong, or refuses the messages: some allow no system message, or want the roles to alternate. */
export class ChatTemplateError extends Error {
  override readonly name = "ChatTemplateError";
}

const Token = z.union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)]);

/** Either one template or several by name, of which `default` is for chats. */
const TemplateSource = z.union([
  z.string(),
  z.array(z.looseObject({ name: z.string(), template: z.string() }))
    .transform((templates) => templates.find(({ name }) => name === "default")?.template),
]);

/** What templates know of a tokenizer: its special tokens, those that it has. */
const SpecialTokens = z.object({
  bos_token: Token.nullish(),
  eos_token: Token.nullish(),
  unk_token: Token.nullish(),
  sep_token: Token.nullish(),
  pad_token: Token.nullish(),
  cls_token: Token.nullish(),
  mask_token: Token.nullish(),
});

const TokenizerConfig = z.looseObject({ chat_template: TemplateSource.nullish() });

/** A conversation that every model takes which takes any. */
export const PLAIN_MESSAGES: readonly ChatMessage[] = [{ role: "user", content: "Hello!" }];

/** Writes a conversation as the one text that a model was trained to answer. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #variables: Readonly<Record<string, unknown>>;

  /**
   * @param source In Jinja, as `chat_template` of `tokenizer_config.json` holds it.
   * @param tokens What the template knows as `bos_token` and so on.
   * @throws {ChatTemplateError} If the source cannot be parsed.
   */
  constructor(source: string, tokens: Readonly<Record<string, string>>) {
    this.#template = asTemplateError("Cannot parse the chat template", () => new Template(source));
    joinUndefined(this.#template);
    // As in transformers, where templates ask whether there are any.
    this.#variables = { tools: null, documents: null, add_generation_prompt: true, ...tokens };
  }

  /**
   * Renders the messages, up to where the model's answer begins. The text names special tokens itself, BOS too where the
   * model wants it, so that it is to be encoded without adding any.
   *
   * @throws {ChatTemplateError} If the template refuses them; the message is the template's own.
   */
  render(messages: readonly ChatMessage[]): string {
    return asTemplateError(
      "The chat template refuses these messages",
      () => this.#template.render({ ...this.#variables, messages }),
    );
  }
}

/**
 * The chat template of a tokenizer, or `null` where it has none.
 *
 * @param tokenizerConfig `tokenizer_config.json`, parsed.
 * @throws {ChatTemplateError} If the template cannot be parsed.
 */
export function chatTemplateOf(tokenizerConfig: Readonly<Record<string, unknown>>): ChatTemplate | null {
  const config = TokenizerConfig.safeParse(tokenizerConfig);
  if (!config.success) throw new ChatTemplateError("chat_template is malformed");
  const { chat_template: source } = config.data;
  if (!source) return null;
  const tokens = SpecialTokens.safeParse(tokenizerConfig);
  if (!tokens.success) throw new ChatTemplateError(`${tokens.error.issues[0]!.path[0]!.toString()} is malformed`);
  // As in transformers: one that is empty is none.
  return new ChatTemplate(source, Object.fromEntries(Object.entries(tokens.data).filter(hasText)));
}

function hasText(entry: [name: string, token: string | null | undefined]): entry is [string, string] {
  return !!entry[1];
}

function asTemplateError<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw new ChatTemplateError(`${what}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}
