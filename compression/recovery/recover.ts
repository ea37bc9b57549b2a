import type { Floats } from "../../models/floats.ts";
import type { Runtime } from "../../onnx/mod.ts";
import type { Recipe } from "../recipe.ts";
import { randomFor } from "../training/random.ts";
import { learningRateAt } from "../training/schedule.ts";
import { AdapterTraining } from "./adapter_training.ts";
import { initialAdapters } from "./adapters.ts";
import type { MaskedModel } from "./divergence.ts";

/** What a recovery that is cut off goes on from. Flat arrays of equal length. */
export interface RecoveryState {
  readonly adapters: Floats;
  /** AdamW's two means. */
  readonly mean: Floats;
  readonly square: Floats;
  /** Of every step so far, in nats per token. */
  readonly divergences: readonly number[];
}

export interface RecoveryJob {
  readonly model: MaskedModel;
  /** Every weight of the sorted model, by the name that its graph gives it. */
  readonly weights: ReadonlyMap<string, Floats>;
  /** What is learnt from; sequences are cut from each in turn. */
  readonly texts: readonly Int32Array[];
  readonly recipe: Recipe["recovery"];
  readonly seed: number;
  readonly threads: number;
}

/**
 * Learns low-rank corrections by which every level of a sorted model comes closer to what the whole model says (uniql.md
 * §5). What was learnt is merged into weights that all levels share, so every batch has sequences of several levels.
 *
 * @param from The state of a run that was cut off, or null.
 * @param afterStep Told the state after every step. Its arrays are overwritten by the next one.
 * @returns The last state.
 * @throws {RangeError} If the divergence stops being a number.
 */
export async function recover(
  runtime: Runtime,
  { model, weights, texts, recipe, seed, threads }: RecoveryJob,
  from: RecoveryState | null,
  afterStep: (state: RecoveryState) => Promise<void>,
): Promise<RecoveryState> {
  const { steps, sequences, sequenceLength: length, learningRate } = recipe;
  using training = await AdapterTraining.open(runtime, {
    model,
    shape: { sequences, length },
    threads,
    weights,
    initialize: (layout) => from?.adapters ?? initialAdapters(layout, randomFor(seed, "weights")),
  });
  const { adapters, optimizer: { mean, square } } = training;
  if (from !== null) {
    mean.set(from.mean);
    square.set(from.square);
  }
  const schedule = { steps, warmUpSteps: Math.ceil(steps / 20), peak: learningRate, end: 0 };
  const divergences = [...from?.divergences ?? []];
  const state = () => ({ adapters, mean, square, divergences });
  while (divergences.length < steps) {
    const step = divergences.length;
    const random = randomFor(seed, "recovery", step);
    for (let sequence = 0; sequence < sequences; sequence++) {
      const text = texts[(step * sequences + sequence) % texts.length]!;
      const start = Math.floor(random() * (text.length - length + 1));
      for (let i = 0; i < length; i++) training.tokens[sequence * length + i] = BigInt(text[start + i]!);
      training.levels[sequence] = BigInt(drawnLevel(model.elastic.levels, random()));
    }
    const divergence = await training.step(step, learningRateAt(step, schedule));
    if (!Number.isFinite(divergence)) {
      throw new RangeError(`Cannot recover: the divergence became ${divergence} at step ${step}`);
    }
    divergences.push(divergence);
    await afterStep(state());
  }
  return state();
}

/**
 * How often the whole model is drawn. In UniQL it never is, and what narrow levels learn then changes what it says: of
 * stories260K (300 steps at a rate of 5e-3) perplexity at rate 0 went from 5.05 to 5.41 with this share and to 5.31 with twice
 * as much, which left 7.4 and 7.9 at 35 %; without it, at 3e-3, to 5.88.
 */
const WHOLE_SHARE = 0.25;

/** How much more likely a narrow level is than the next wider one, on a logarithmic scale (uniql.md §5). */
const NARROW_PREFERENCE = 0.1;

/**
 * A level to train at.
 *
 * @param levels How many there are, two at least.
 * @param draw Uniform in [0, 1).
 */
export function drawnLevel(levels: number, draw: number): number {
  if (draw < WHOLE_SHARE) return 0;
  const starts = [0]; // of each level's share, the narrowest first
  for (let k = 0; k < levels - 1; k++) starts.push(starts[k]! + Math.exp(-NARROW_PREFERENCE * k));
  const place = (draw - WHOLE_SHARE) / (1 - WHOLE_SHARE) * starts.pop()!;
  return levels - 1 - starts.findLastIndex((start) => start <= place);
}
