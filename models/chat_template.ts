import { Template } from "@huggingface/jinja";
import { z } from "zod";

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

const TokenizerConfig = z.looseObject({
  chat_template: TemplateSource.nullish(),
  bos_token: Token.nullish(),
  eos_token: Token.nullish(),
});

/** Writes a conversation as the one text that a model was trained to answer. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #variables: Readonly<Record<string, unknown>>;

  /**
   * @param source In Jinja, as `chat_template` of `tokenizer_config.json` holds it.
   * @param tokens What the template knows as `bos_token` and `eos_token`; null is unknown to it.
   * @throws {ChatTemplateError} If the source cannot be parsed.
   */
  constructor(source: string, tokens: { readonly bosToken: string | null; readonly eosToken: string | null }) {
    this.#template = asTemplateError("Cannot parse the chat template", () => new Template(source));
    const { bosToken, eosToken } = tokens;
    this.#variables = {
      // As in transformers, where templates ask whether there are any.
      ...{ tools: null, documents: null, add_generation_prompt: true },
      ...(bosToken !== null && { bos_token: bosToken }),
      ...(eosToken !== null && { eos_token: eosToken }),
    };
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
  if (!config.success) throw new ChatTemplateError("chat_template, bos_token or eos_token is malformed");
  const { chat_template: source, bos_token: bosToken = null, eos_token: eosToken = null } = config.data;
  return source ? new ChatTemplate(source, { bosToken, eosToken }) : null;
}

function asTemplateError<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw new ChatTemplateError(`${what}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}
