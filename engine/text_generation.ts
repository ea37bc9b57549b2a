import type { Engine } from "./engine.ts";
import type { GeneratedToken, GenerationEnd, GenerationRequest, GenerationStart } from "./generation.ts";
import { StopText } from "./stop_text.ts";

/** What text needs of a tokenizer. */
export interface TextTokenizer {
  /** Starts to turn tokens into text; pieces never end inside a character. */
  stream(options: { readonly continues: boolean }): { push(token: number): string; flush(): string };
  /** A token by itself, as lists of probabilities show it. */
  tokenText(token: number): string;
}

/** A token and the text that is certain with it, which can be none, or belong to tokens before it. */
export interface TextToken extends GeneratedToken {
  readonly text: string;
}

export type TextEvent = GenerationStart | TextToken | GenerationEnd;

export interface TextRequest extends Omit<GenerationRequest, "endsAfter"> {
  /** Strings that end the answer; none of them is part of its text. */
  readonly stop: readonly string[];
}

/**
 * Runs a request and turns its tokens into text; the texts of all token events in a row are the answer. See
 * `Engine.generate` for what it throws. Without a tokenizer all texts are empty.
 */
export function generateText(
  engine: Engine,
  { stop, ...request }: TextRequest,
  tokenizer: TextTokenizer | null,
  signal: AbortSignal,
): AsyncGenerator<TextEvent, void> {
  const stream = tokenizer?.stream({ continues: true });
  const stopText = new StopText(stop);
  const pieces: string[] = [];
  const endsAfter = (token: number) => {
    pieces.push(stream === undefined ? "" : stopText.push(stream.push(token)));
    return stopText.stopped;
  };
  const events = engine.generate({ ...request, endsAfter }, signal);

  return (async function* () {
    for await (const event of events) {
      if (event.kind !== "token") {
        yield event;
        continue;
      }
      // A token that ends the answer by itself has no text.
      let text = pieces[event.index] ?? "";
      if (event.finishReason !== null && stream !== undefined) text += stopText.push(stream.flush()) + stopText.flush();
      yield { ...event, text };
    }
  })();
}
