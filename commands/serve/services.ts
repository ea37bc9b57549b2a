import type { Registry } from "prom-client";
import type { Metrics } from "../../engine/mod.ts";
import type { Artefact } from "../../models/artefact.ts";
import { cacheElementBytes } from "../../models/decoder.ts";
import { ChatTemplateError, PLAIN_MESSAGES } from "../../models/chat_template.ts";
import { threadedChatTemplateOf } from "../../models/threaded_chat_template.ts";
import { ThreadedTokenizer } from "../../models/threaded_tokenizer.ts";
import { BodyRoom, type Build, Refusals, type Security, type Services } from "../../routes/mod.ts";
import type { ChosenDevice } from "../device.ts";
import { LogWriter, writeStdout } from "./log_writer.ts";
import type { Settings } from "./settings.ts";

/** Whole bodies that there is room for while they come. */
const BODIES_HELD = 32;

/** Tokens of ordinary text have 4 or so; what has more than this per token is no text that anybody waits for. */
const UNITS_PER_TOKEN = 16;

export interface ServicesOptions {
  readonly settings: Settings;
  readonly artefact: Artefact;
  readonly texts: Texts;
  readonly chosen: Pick<ChosenDevice, "device" | "operators">;
  /** Of prompt and answer together. */
  readonly maxTokens: number;
  readonly security: Security;
  readonly build: Build;
  readonly registry: Registry;
  readonly metrics: Metrics;
  /** Of the log. */
  readonly writer: LogWriter;
  readonly now: () => number;
}

/** What makes tokens of texts. */
type Texts = Pick<Services, "tokenizer" | "chatTemplate">;

/**
 * What makes tokens of texts, by what the artefact has for it.
 *
 * @throws {RangeError} If its tokenizer is none that we support.
 * @throws {ChatTemplateError} If its chat template cannot be parsed.
 */
export function textsOf({ tokenizer }: Pick<Artefact, "tokenizer">): Texts {
  if (tokenizer === null) return { tokenizer: null, chatTemplate: null };
  return {
    tokenizer: new ThreadedTokenizer(tokenizer),
    chatTemplate: threadedChatTemplateOf(tokenizer.tokenizerConfig),
  };
}

/**
 * Why every conversation will be refused, or null if they will not: a template may parse and yet render nothing. That is
 * told at start, since the other requests can be served.
 */
export async function conversationProblem({ chatTemplate }: Texts): Promise<string | null> {
  try {
    await chatTemplate?.render(PLAIN_MESSAGES);
    return null;
  } catch (error) {
    if (error instanceof ChatTemplateError) return error.message;
    throw error;
  }
}

/** What the routes work with besides an engine. */
export function servicesOf(
  { settings, artefact, texts, chosen, maxTokens, security, build, registry, metrics, writer, now }: ServicesOptions,
): Omit<Services, "engine"> {
  const { config } = artefact.plan;
  const log: Services["log"] = (line) => writer.log(lineOf(line));
  return {
    model: {
      name: artefact.name,
      family: config.family,
      vocabSize: config.vocabSize,
      eosTokenIds: config.eosTokenIds,
      digest: artefact.digest,
      levels: artefact.levels.map((level) => ({
        ...level,
        cacheBytesPerToken: level.cacheElementsPerToken * cacheElementBytes(chosen.device, chosen.operators !== null),
      })),
    },
    ...texts,
    limits: {
      maxBodyBytes: settings.maxBodyBytes,
      maxJsonDepth: settings.maxJsonDepth,
      maxPromptLength: settings.maxPromptLength ?? UNITS_PER_TOKEN * maxTokens,
    },
    bodyRoom: new BodyRoom(BODIES_HELD * settings.maxBodyBytes),
    ...{ security, build, registry, metrics, log, now },
    logPrompts: settings.logPrompts,
    refusals: new Refusals({ metrics, log, now }),
    newId: () => crypto.randomUUID(),
    newSeed: () => crypto.getRandomValues(new Uint32Array(1))[0]!,
  };
}

/** The log of requests, on stdout. */
export function requestLog(): LogWriter {
  return new LogWriter({ write: writeStdout, lost: (count) => lineOf({ event: "lost", lines: count }) });
}

function lineOf(line: Readonly<Record<string, unknown>>): string {
  return JSON.stringify({ time: new Date().toISOString(), ...line });
}
