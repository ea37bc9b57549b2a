import { z } from "zod";
import { BYTE_ALPHABET } from "./byte_alphabet.ts";

/** How the tokens of one tokenizer stand for text. */
export interface TokenText {
  /** The bytes that a token adds to the text, given how it is written in the vocabulary. */
  readonly bytesOf: (token: string) => Uint8Array<ArrayBuffer>;
  /** Whether a text begins with a space that is not its own: it was put there before the text became tokens. */
  readonly leadingSpace: boolean;
}

const Step = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("ByteLevel") }),
  z.looseObject({ type: z.literal("ByteFallback") }),
  z.looseObject({ type: z.literal("Fuse") }),
  z.looseObject({
    type: z.literal("Metaspace"),
    replacement: z.string().default("\u2581"),
    prepend_scheme: z.string().default("always"),
  }),
  z.looseObject({
    type: z.literal("Replace"),
    pattern: z.strictObject({ String: z.string().min(1) }),
    content: z.string(),
  }),
  z.looseObject({
    type: z.literal("Strip"),
    content: z.literal(" "),
    start: z.union([z.literal(0), z.literal(1)]),
    stop: z.literal(0),
  }),
]);
type Step = z.output<typeof Step>;

/** One step, or several one after the other, as `tokenizer.json` has them under `decoder`. */
const DecoderSteps = z.union([
  z.looseObject({ type: z.literal("Sequence"), decoders: z.array(Step) }).transform(({ decoders }) => decoders),
  Step.transform((step) => [step]),
]);

/**
 * Reads from a tokenizer's decoder what each token stands for by itself. That makes it possible to turn tokens into
 * text one by one, at the same cost for each.
 *
 * Supported are the two kinds of decoder that language models have: byte-level (GPT-2, Llama 3, Qwen2), where each
 * character of a token is a byte, and SentencePiece's, where tokens are text, `▁` is a space, and `<0xE4>` is a byte.
 *
 * @param decoder The field `decoder` of `tokenizer.json`.
 * @throws {RangeError} If it is of another kind.
 */
export function tokenText(decoder: unknown): TokenText {
  const parsed = DecoderSteps.safeParse(decoder);
  if (!parsed.success) {
    throw new RangeError(
      `The tokenizer's decoder ${JSON.stringify(decoder)?.slice(0, 200)} is not supported; ` +
        "supported are ByteLevel, Metaspace, and sequences of Replace, ByteFallback, Fuse and Strip",
    );
  }
  const steps = parsed.data;
  const encoder = new TextEncoder();
  if (steps.some(({ type }) => type === "ByteLevel")) {
    if (steps.length > 1) throw new RangeError("A tokenizer's decoder with steps beside ByteLevel is not supported");
    return { bytesOf: (token) => byteLevelBytes(token) ?? encoder.encode(token), leadingSpace: false };
  }
  const byteFallback = steps.some(({ type }) => type === "ByteFallback");
  const replacements = steps.flatMap(replacement);
  return {
    bytesOf: (token) => {
      const [, hex] = byteFallback ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token) ?? [] : [];
      if (hex !== undefined) return Uint8Array.of(parseInt(hex, 16));
      return encoder.encode(replacements.reduce((text, [from, to]) => text.replaceAll(from, to), token));
    },
    leadingSpace: steps.some((step) =>
      (step.type === "Strip" && step.start === 1) || (step.type === "Metaspace" && step.prepend_scheme !== "never")
    ),
  };
}

function replacement(step: Step): [string, string][] {
  if (step.type === "Replace") return [[step.pattern.String, step.content]];
  return step.type === "Metaspace" ? [[step.replacement, " "]] : [];
}

/** The byte for each character of a byte-level vocabulary. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  BYTE_ALPHABET.map((character, byte) => [character, byte]),
);

/** `null` if a character is not of the alphabet: then the token is text as it stands. */
function byteLevelBytes(token: string): Uint8Array<ArrayBuffer> | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHARACTER.get(token[i]!);
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}
