import type { TextStream } from "./text_stream.ts";
import { type DecodeOptions, type EncodeOptions, Tokenizer } from "./tokenizer.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";
import type { Answer, Question } from "./tokenizer_worker.ts";

/**
 * UTF-16 code units of a text that is encoded at once, in about 5 ms; a message to the thread and back takes less than one,
 * but texts there wait for each other.
 */
const SHORT = 4096;

/** A tokenizer that encodes long texts in a thread of its own, so that whoever else is served need not wait for them. */
export class ThreadedTokenizer implements Disposable {
  readonly #tokenizer: Tokenizer;
  readonly #worker: Worker;
  readonly #waiting = new Map<number, PromiseWithResolvers<readonly number[]>>();
  #nextId = 0;
  /** Why the thread has ended. */
  #ended: Error | null = null;

  /** @throws {RangeError} If the files do not make a tokenizer that we support; the message says why. */
  constructor(files: TokenizerFiles) {
    this.#tokenizer = new Tokenizer(files);
    this.#worker = new Worker(new URL("./tokenizer_worker.ts", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      const waiting = this.#waiting.get(data.id)!;
      this.#waiting.delete(data.id);
      if ("tokens" in data) waiting.resolve(data.tokens);
      else waiting.reject(new Error(`Cannot encode a text: ${data.problem}`));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#end(new Error(`The thread of the tokenizer has ended: ${event.message}`));
    };
    this.#worker.postMessage(files);
  }

  /** A text as token ids, as {@linkcode Tokenizer.encode} gives them. A long text takes its time and holds up nobody. */
  async encode(text: string, { addSpecialTokens }: EncodeOptions): Promise<readonly number[]> {
    if (text.length <= SHORT) return this.#tokenizer.encode(text, { addSpecialTokens });
    if (this.#ended !== null) throw this.#ended;
    const id = this.#nextId++;
    const waiting = Promise.withResolvers<readonly number[]>();
    this.#waiting.set(id, waiting);
    this.#worker.postMessage({ id, text, addSpecialTokens } satisfies Question);
    return await waiting.promise;
  }

  /** See {@linkcode Tokenizer.stream}. */
  stream(options: DecodeOptions = {}): TextStream {
    return this.#tokenizer.stream(options);
  }

  /** See {@linkcode Tokenizer.tokenBytes}. */
  tokenBytes(id: number): Uint8Array<ArrayBuffer> {
    return this.#tokenizer.tokenBytes(id);
  }

  /** See {@linkcode Tokenizer.tokenText}. */
  tokenText(id: number): string {
    return this.#tokenizer.tokenText(id);
  }

  /** Ends the thread; whoever waits for it is told. */
  [Symbol.dispose](): void {
    this.#end(new Error("The tokenizer is closed"));
  }

  #end(error: Error): void {
    this.#ended ??= error;
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
