import { type ChatMessage, ChatTemplateError, chatTemplateOf } from "./chat_template.ts";
import type { Conversation, Rendered, TemplateSource } from "./chat_template_worker.ts";

/** Time that a conversation may take; one of four thousand messages took a tenth of a second on two x86 cores. */
const MOST_MS = 5000;

/**
 * A chat template that renders in a thread of its own, one conversation after the other. A template is a program that
 * comes with the model: it may take a while for a long conversation, and a bad one for ever, and nobody else who is
 * served is to wait for that. A thread that takes too long is ended, and the next conversation gets another.
 */
export class ThreadedChatTemplate implements Disposable {
  readonly #source: TemplateSource;
  readonly #patience: () => AbortSignal;
  #worker: Worker | null = null;
  /** Settles when the conversations so far are done. */
  #last: Promise<unknown> = Promise.resolve();

  /** @param patience Is asked for as a conversation begins, and aborts when it has taken too long. */
  constructor(
    tokenizerConfig: TemplateSource["tokenizerConfig"],
    patience: () => AbortSignal = () => AbortSignal.timeout(MOST_MS),
  ) {
    this.#source = { tokenizerConfig };
    this.#patience = patience;
  }

  /**
   * See {@linkcode ChatTemplate.render}.
   *
   * @throws {ChatTemplateError} If the template refuses the messages, or takes too long for them.
   */
  render(messages: readonly ChatMessage[]): Promise<string> {
    const text = this.#last.then(() => this.#ask(messages));
    this.#last = text.catch(() => {});
    return text;
  }

  async #ask(messages: readonly ChatMessage[]): Promise<string> {
    const starts = this.#worker === null;
    const worker = this.#worker ??= new Worker(new URL("./chat_template_worker.ts", import.meta.url), {
      type: "module",
    });
    if (starts) await this.#told(worker, this.#source);
    const answer = await this.#told(worker, { messages }, this.#patience());
    if ("text" in answer) return answer.text;
    throw new ChatTemplateError("problem" in answer ? answer.problem : "The thread of the chat template has no answer");
  }

  /** What the thread says to something; the thread is ended if it fails, or patience does. */
  async #told(worker: Worker, said: TemplateSource | Conversation, patience?: AbortSignal): Promise<Rendered> {
    const told = Promise.withResolvers<Rendered>();
    const fail = (error: Error) => {
      this[Symbol.dispose]();
      told.reject(error);
    };
    worker.onmessage = ({ data }: MessageEvent<Rendered>) => told.resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      fail(new Error(`The thread of the chat template has ended: ${event.message}`));
    };
    const onAbort = () => fail(new ChatTemplateError("The chat template takes too long for these messages"));
    patience?.addEventListener("abort", onAbort);
    worker.postMessage(said);
    try {
      return await told.promise;
    } finally {
      patience?.removeEventListener("abort", onAbort);
    }
  }

  /** Ends the thread. */
  [Symbol.dispose](): void {
    this.#worker?.terminate();
    this.#worker = null;
  }
}

/**
 * As {@linkcode chatTemplateOf}, in a thread.
 *
 * @throws {ChatTemplateError} If the template cannot be parsed.
 */
export function threadedChatTemplateOf(
  tokenizerConfig: TemplateSource["tokenizerConfig"],
): ThreadedChatTemplate | null {
  return chatTemplateOf(tokenizerConfig) === null ? null : new ThreadedChatTemplate(tokenizerConfig);
}
