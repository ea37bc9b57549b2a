/** The thread of a {@linkcode ThreadedChatTemplate}: first it is sent what the template is made of, then conversations. */

import { type ChatMessage, type ChatTemplate, chatTemplateOf } from "./chat_template.ts";

/** What a template is made of: `tokenizer_config.json`, parsed. */
export interface TemplateSource {
  readonly tokenizerConfig: Readonly<Record<string, unknown>>;
}

/** A conversation to render. */
export interface Conversation {
  readonly messages: readonly ChatMessage[];
}

/** That conversations can come; of each its text, or why there is none. */
export type Rendered = { readonly ready: true } | { readonly text: string } | { readonly problem: string };

/** What a worker's global object has, which the types of a window lack. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<TemplateSource | Conversation>) => void) | null;
  postMessage(rendered: Rendered): void;
}

const scope = self as unknown as WorkerScope;
let template: ChatTemplate | null = null;

scope.onmessage = ({ data }) => {
  if ("tokenizerConfig" in data) {
    template = chatTemplateOf(data.tokenizerConfig);
    scope.postMessage({ ready: true });
    return;
  }
  try {
    scope.postMessage({ text: template!.render(data.messages) });
  } catch (error) {
    scope.postMessage({ problem: error instanceof Error ? error.message : String(error) });
  }
};
