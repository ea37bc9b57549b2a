import { hasAttentionBiases, KNOWN_SHAPES, type ShapeName } from "../models/known_shapes.ts";
import type { ModelConfig } from "../models/description.ts";
import type { Manifest } from "../models/manifest.ts";
import { type ModelPlan, planModel } from "../models/plan.ts";
import { variantSize } from "../models/sizes.ts";
import { keptWidth, PRUNING_RATES, quantaFor } from "../models/widths.ts";
import type { Journal } from "./journal.ts";

/** How well one stored matrix stands for the float one. */
export interface MatrixError {
  readonly matrix: string;
  /** `‖(W − Ŵ)·X‖ / ‖W·X‖` over the calibration activations. */
  readonly relativeError: number;
}

/** What `compress` found and made, for `report.json`. */
export interface Report {
  readonly model: string;
  readonly levels: readonly {
    readonly pruningRate: number;
    readonly keptParameters: number;
    readonly bytes: number;
    readonly bytesPerToken: number;
    readonly perplexity: number | null;
  }[];
  /** Embedding, head, and what stands between them. */
  readonly outer: readonly MatrixError[];
  readonly layers: readonly {
    readonly block: string;
    readonly influence: number;
    readonly widths: readonly number[];
    /** Kept states per level, of a Mamba block. */
    readonly stateWidths?: readonly number[];
    readonly errors: readonly MatrixError[];
  }[];
  /**
   * How far the levels that were drawn were from the whole model, in nats per token, over the first tenth of recovery's steps
   * and over the last; null without recovery.
   */
  readonly recovery: { readonly steps: number; readonly first: number; readonly last: number } | null;
  readonly memory: readonly MemorySaving[];
  readonly seconds: number;
}

/** Weights in 10⁹ bytes, against the same model in float16. */
export interface MemorySaving {
  readonly model: string;
  readonly float16: number;
  readonly rate0: number;
  readonly rate35: number;
}

/**
 * What a finished run found and made.
 *
 * @param levels With their perplexities, as in the manifest.
 * @param journal Its first errors are those of what stands before and behind the layers.
 */
export function reportOf({ model, plan, blockSize, levels, journal, seconds }: {
  model: string;
  plan: ModelPlan;
  blockSize: number;
  levels: Manifest["levels"];
  journal: Pick<Journal, "influence" | "errors" | "recovery">;
  seconds: number;
}): Report {
  const [[outer], ...layers] = journal.errors as [Journal["errors"][number], ...Journal["errors"]];
  return {
    model,
    levels: levels.map(({ pruningRate, perplexity }, level) => {
      const { parameters, bytes, bytesPerToken } = variantSize(plan, level, blockSize);
      return { pruningRate, keptParameters: parameters, bytes, bytesPerToken, perplexity };
    }),
    outer: outer!,
    layers: plan.layers.flatMap((blocks, layer) =>
      blocks.map((block, index) => ({
        block: block.name,
        influence: journal.influence[layer]!,
        widths: block.widths,
        ...(block.kind === "mamba" && { stateWidths: block.stateWidths }),
        errors: layers[layer]![index]!,
      }))
    ),
    recovery: journal.recovery && recoveryOf(journal.recovery.divergences),
    memory: [memorySaving(model, plan, blockSize), ...publishedMemory(["llama-3.1-8b", "qwen2.5-7b"])],
    seconds,
  };
}

function recoveryOf(divergences: readonly number[]): NonNullable<Report["recovery"]> {
  const tenth = Math.ceil(divergences.length / 10);
  const mean = (part: readonly number[]) => part.reduce((sum, value) => sum + value, 0) / part.length;
  return {
    steps: divergences.length,
    first: mean(divergences.slice(0, tenth)),
    last: mean(divergences.slice(-tenth)),
  };
}

/** Memory of a plan's widest and narrowest level. */
export function memorySaving(model: string, plan: ModelPlan, blockSize: number): MemorySaving {
  const last = plan.levels - 1;
  const whole = variantSize(plan, 0, blockSize);
  return {
    model,
    float16: 2 * whole.parameters / 1e9,
    rate0: whole.bytes / 1e9,
    rate35: variantSize(plan, last, blockSize).bytes / 1e9,
  };
}

/** Memory of published shapes, every layer cut alike, in blocks of 128 as in the paper. */
export function publishedMemory(names: readonly ShapeName[]): MemorySaving[] {
  return names.map((name) => memorySaving(name, uniformPlan(name, 128), 128));
}

/** A plan of a Transformer in which every layer has the global rate. */
function uniformPlan(name: ShapeName, blockSize: number): ModelPlan {
  const config: ModelConfig = KNOWN_SHAPES[name];
  const quanta = quantaFor({ ...config, blockSize });
  const biased = hasAttentionBiases(name);
  const widths = (full: number, quantum: number) => PRUNING_RATES.map((rate) => keptWidth(full, rate, quantum));
  return planModel(
    config,
    Array.from({ length: config.numHiddenLayers }, () => [
      {
        kind: "attention" as const,
        widths: widths(config.headDim, quanta.head),
        queryKeyBias: biased,
        outputBias: biased,
      },
      { kind: "gatedMlp" as const, widths: widths(config.intermediateSize, quanta.mlp) },
    ]),
  );
}
