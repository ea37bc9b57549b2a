import type { Sequence, StepEntry } from "../../models/decoder.ts";
import type { StepRunner } from "../step_runner.ts";

/** Letters, and 0 that ends an answer. */
export const TOY_VOCABULARY = 32;

interface ToyOptions {
  readonly slots?: number;
  readonly maxTokens?: number;
  readonly maxRows?: number;
  readonly narrows?: boolean;
  /** Called in each step; what it returns is waited for. */
  readonly onStep?: (entries: readonly StepEntry[]) => unknown;
}

/**
 * A runner without a model: after tokens that sum to s, at level l, token (s + l) mod 31 + 1 is likeliest, the next
 * ones follow with falling logits.
 */
export class ToyRunner implements StepRunner {
  readonly maxRows: number;
  readonly maxTokens: number;
  readonly narrows: boolean;
  freeSlots: number;
  /** Entries of all steps, as `level:rows`. */
  readonly steps: string[][] = [];
  readonly #onStep: (entries: readonly StepEntry[]) => unknown;
  readonly #sums = new Map<Sequence, number>();

  constructor({ slots = 2, maxTokens = 64, maxRows = 64, narrows = true, onStep = () => {} }: ToyOptions = {}) {
    [this.freeSlots, this.maxTokens, this.maxRows, this.narrows] = [slots, maxTokens, maxRows, narrows];
    this.#onStep = onStep;
  }

  openSequence(level: number): Sequence {
    if (this.freeSlots-- === 0) throw new RangeError("no slot");
    const sequence: { -readonly [K in keyof Sequence]: Sequence[K] } = {
      level,
      length: 0,
      narrow: (level) => void (sequence.level = level),
      close: () => void (this.#sums.delete(sequence) && this.freeSlots++),
    };
    this.#sums.set(sequence, 0);
    return sequence;
  }

  likeliest(): null {
    return null;
  }

  async step(entries: readonly StepEntry[]): Promise<Float32Array[]> {
    this.steps.push(entries.map(({ sequence, tokens }) => `${sequence.level}:${tokens.length}`));
    await this.#onStep(entries);
    return entries.map(({ sequence, tokens, logits }) => {
      if (!this.#sums.has(sequence)) throw new TypeError("A sequence was closed while its step was running");
      const sum = Array.from(tokens).reduce((total, token) => total + token, this.#sums.get(sequence)!);
      this.#sums.set(sequence, sum);
      (sequence as { length: number }).length += tokens.length;
      return logits === "none" ? new Float32Array(0) : toyLogits(sum, sequence.level);
    });
  }
}

export function toyLogits(sum: number, level: number): Float32Array {
  const likeliest = (sum + level) % (TOY_VOCABULARY - 1);
  return Float32Array.from(
    { length: TOY_VOCABULARY },
    (_, token) => token === 0 ? -9 : -((token - 1 - likeliest + TOY_VOCABULARY - 1) % (TOY_VOCABULARY - 1)) / 2,
  );
}

/** The greedy answer of the toy model. */
export function toyAnswer(prompt: readonly number[], level: number, count: number): number[] {
  const tokens = [...prompt];
  for (let i = 0; i < count; i++) {
    const sum = tokens.reduce((total, token) => total + token, 0);
    tokens.push((sum + level) % (TOY_VOCABULARY - 1) + 1);
  }
  return tokens.slice(prompt.length);
}
