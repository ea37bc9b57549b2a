import type { Registry } from "prom-client";
import type { Engine, Metrics, TextTokenizer } from "../engine/mod.ts";
import type { ChatMessage } from "../models/chat_template.ts";
import type { BodyRoom } from "./body_room.ts";
import type { JsonLimits } from "./read_json.ts";
import type { Refusals } from "./refusals.ts";
import type { Security } from "./security/security.ts";

/** What the routes say about the model. */
export interface ServedModel {
  readonly name: string;
  readonly family: string;
  readonly vocabSize: number;
  readonly eosTokenIds: readonly number[];
  /** Digest of the weights. */
  readonly digest: string;
  /** One per prepared rate, the full model first. */
  readonly levels: readonly {
    readonly pruningRate: number;
    readonly keptParameters: number;
    readonly bytesPerToken: number;
    readonly cacheBytesPerToken: number;
    readonly stateBytesPerSequence: number;
    readonly perplexity: number | null;
  }[];
}

/** What the routes say about the process. */
export interface Build {
  readonly version: string;
  /** Name and version of what runs the model. */
  readonly engine: string;
  /** The instruction set of our own operators, or "stock" and why. */
  readonly kernels: string;
  readonly threads: number;
  /** Where steps run. */
  readonly device: {
    readonly device: "cpu" | "cuda";
    /** Such as "NVIDIA H100 80GB HBM3"; null for the CPU. */
    readonly name: string | null;
    /** Why this one, and how it is known to work. */
    readonly reason: string;
  };
  /** Bytes by use. */
  readonly memory: Readonly<Record<string, number>>;
  /** When the process started, in seconds since 1970. */
  readonly startedSeconds: number;
}

/** What prompts, and answers with probabilities, need of a tokenizer besides. */
export interface ServedTokenizer extends TextTokenizer {
  /** A text as token ids; a long text must not keep the event loop from others. */
  encode(
    text: string,
    options: { readonly addSpecialTokens: boolean },
  ): readonly number[] | Promise<readonly number[]>;
  /** The bytes that a token stands for by itself; they need not be whole characters. */
  tokenBytes(token: number): Uint8Array;
}

/** What conversations need. */
export interface ServedChatTemplate {
  /**
   * A conversation as the text that the model is to continue; a long one must not keep the event loop from others.
   *
   * @throws {ChatTemplateError} If the template refuses it.
   */
  render(messages: readonly ChatMessage[]): string | Promise<string>;
}

export interface Limits extends JsonLimits {
  /**
   * UTF-16 code units of a text that is to be turned into tokens. That takes about a second for a million, so a text
   * that cannot fit is to be refused before.
   */
  readonly maxPromptLength: number;
}

/** All that the routes work with. */
export interface Services {
  readonly engine: Engine;
  readonly model: ServedModel;
  /** `null`: only token ids are taken and given. */
  readonly tokenizer: ServedTokenizer | null;
  /** `null`: the model takes no conversations. */
  readonly chatTemplate: ServedChatTemplate | null;
  readonly limits: Limits;
  readonly bodyRoom: BodyRoom;
  readonly security: Security;
  readonly build: Build;
  readonly registry: Registry;
  readonly metrics: Metrics;
  /** Takes note of what is refused outside of requests for answers. */
  readonly refusals: Refusals;
  /** Takes one line of the log. */
  readonly log: (line: Readonly<Record<string, unknown>>) => void;
  /** Whether the line of a request has its prompt. */
  readonly logPrompts: boolean;
  /** The engine's clock, in milliseconds. */
  readonly now: () => number;
  readonly newId: () => string;
  /** A seed for requests that bring none: an integer from 0 to 2³² − 1. */
  readonly newSeed: () => number;
}
