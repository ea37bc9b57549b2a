import { blockVector, type BlockWeights, type DenseBlock } from "../models/dense_block.ts";
import type { Floats } from "../models/floats.ts";
import { takeColumns, takeRows } from "../models/layout.ts";
import { type BlockPlan, blockVectors, type Matrix } from "../models/plan.ts";
import type { SafetensorsWriter } from "../models/safetensors_writer.ts";
import { checkSameKind, methodOf } from "./blocks/mod.ts";
import { withoutDrift, withoutInputDrift } from "./drift.ts";
import { dampeningFor, factorHessian } from "./hessian.ts";
import { type HiddenStates, normalized } from "./hidden_states.ts";
import { naming } from "./naming.ts";
import { narrowWeights } from "./narrow_weights.ts";
import { nestedLeastSquares } from "./nested_least_squares.ts";
import { inverseOrder, permuteSymmetric } from "./permutations.ts";
import {
  errorOf,
  narrowLevel,
  type Quantization,
  quantizeColumns,
  type Quantized,
  type Streams,
  writePart,
} from "./quantization.ts";
import type { MatrixError } from "./report.ts";

/** The sessions that a kind of block needs, for dense weights. */
export interface BlockPasses {
  /** Add up `readingStatistics` and `writingStatistics`, and leave the activations as they are. */
  readonly reading: DenseBlock;
  readonly writing: DenseBlock;
  /** Sends activations through the block. */
  readonly running: DenseBlock;
}

/**
 * Quantizes one block and sends the activations through what it became, so that the next block is calibrated on what it
 * will really read (uniql.md §6.3). Each projection is quantized towards what the float network has in its place,
 * those that write the stream last, on what the others became. What the block reads at a narrow level counts with what it
 * reads at rate 0: else all that is known of it would be of a network that narrow rates never run.
 *
 * @param sorted Its weights, as `SortedModel` has them.
 * @param streams What enters the block; what leaves it afterwards.
 * @throws {RangeError} If a weight is too large for the format, or activations overflow; the message names the matrix.
 */
export async function quantizeBlock(
  quantization: Quantization,
  { plan, sorted, passes: { reading, writing, running }, streams: { hidden, narrow, reference } }: {
    plan: BlockPlan;
    sorted: BlockWeights;
    passes: BlockPasses;
    streams: Streams;
  },
): Promise<MatrixError[]> {
  checkSameKind(plan.name, plan, sorted);
  const { plan: { config }, writer, recipe } = quantization;
  const { balance, projections } = methodOf(plan.kind);
  const weights = recipe.balance ? balance(config, plan, sorted) : sorted;
  for (const { name } of blockVectors(config, plan)) {
    await writer.write(name, blockVector(weights, name.slice(plan.name.length + 1)));
  }
  const packed = weights as unknown as Readonly<Record<string, Floats | null>>;
  const quantized: Record<string, Floats> = {};
  const errors: MatrixError[] = [];
  const quantizeThose = async (cut: "rows" | "columns", statistics: ReadonlyMap<string, Floats>) => {
    for (const projection of projections.filter((projection) => projection.cut === cut)) {
      const { weight, bias, input } = projection;
      const stored = projection.stored(config, plan);
      const name = stored[0]!.name.replace(/\.0$/, "");
      const { reconstruction, relativeSquaredError } = await naming(
        name,
        () =>
          quantizeCut[cut](quantization, packed[weight]!, {
            gram: statistics.get(`${input}.gram`)!,
            drift: statistics.get(`${input}.drift`)!,
            order: projection.order(config, plan),
            stored,
            levels: plan.chunks.map(({ level }) => level),
          }),
      );
      quantized[weight] = reconstruction;
      errors.push(errorOf(name, relativeSquaredError));
      const added = bias === undefined ? null : packed[bias]!;
      const order = projection.order(config, plan);
      if (added !== null) await writeBias(writer, cut === "rows" ? takeRows(added, 1, order) : added, cut, stored);
    }
  };

  /** @param wanted What a window of the float network gives in the place of what is counted. */
  const statisticsOf = async (pass: DenseBlock, wanted: (window: Floats) => Floats) => {
    const collect = async ({ windows }: HiddenStates) => {
      pass.resetStatistics();
      for (const [index, window] of windows.entries()) await pass.run(window, wanted(reference.windows[index]!));
    };
    await collect(hidden);
    if (narrow === null) return pass.statistics;
    const whole = new Map([...pass.statistics].map(([name, sum]) => [name, sum.slice()]));
    await collect(narrow);
    for (const [name, sum] of whole) mix(sum, pass.statistics.get(name)!, recipe.narrowShare);
    return whole;
  };

  reading.setWeights(weights);
  const normed = (window: Floats) => normalized(window, weights.norm, config.rmsNormEps);
  await quantizeThose("rows", await statisticsOf(reading, normed));

  running.setWeights(weights);
  for (const window of reference.windows) await running.run(window);
  writing.setWeights({ ...weights, ...quantized });
  await quantizeThose("columns", await statisticsOf(writing, (window) => window));

  const found = { ...weights, ...quantized };
  running.setWeights(found);
  for (const window of hidden.windows) await running.run(window);
  if (narrow !== null) {
    running.setWeights(narrowWeights(config, plan, found, narrowLevel(quantization.plan)));
    for (const window of narrow.windows) await running.run(window);
  }
  return errors;
}

/** `(1 − share) · whole + share · narrow`, in place of the first. */
function mix(whole: Floats, narrow: Floats, share: number): void {
  for (let i = 0; i < whole.length; i++) whole[i] = (1 - share) * whole[i]! + share * narrow[i]!;
}

/** A bias on rows goes with them; one on columns' outputs belongs to the segment that is never off. */
async function writeBias(
  writer: SafetensorsWriter,
  bias: Floats,
  cut: "rows" | "columns",
  stored: readonly Matrix[],
): Promise<void> {
  if (cut === "columns") return await writer.write(`${stored[0]!.name}.bias`, bias);
  let start = 0;
  for (const { name, outFeatures } of stored) {
    await writer.write(`${name}.bias`, bias.slice(start, start += outFeatures));
  }
}

/** What a projection of a block is quantized by. */
interface ProjectionStatistics {
  /** See `readingStatistics` and `writingStatistics`. */
  readonly gram: Floats;
  readonly drift: Floats;
  /** Packed rows or columns in the order of the segments. */
  readonly order: readonly number[];
  readonly stored: readonly Matrix[];
  /** The narrowest level that keeps each of them. */
  readonly levels: readonly number[];
}

const quantizeCut = { rows: quantizeRows, columns: quantizeSegments };

/** A matrix whose rows are cut: rows do not influence each other, so it is quantized whole and stored in pieces. */
async function quantizeRows(
  quantization: Quantization,
  weight: Floats,
  { gram, drift, order, stored }: ProjectionStatistics,
): Promise<Quantized> {
  const { algebra, blockSize, writer } = quantization;
  const { inFeatures } = stored[0]!;
  const hessian = await factorHessian(algebra, gram, inFeatures, dampeningFor(inFeatures, quantization.tokens));
  const wanted = await withoutInputDrift(algebra, weight, { drift, gram });
  const { int4, reconstruction, relativeSquaredError } = await quantizeColumns(
    quantization,
    takeRows(wanted, inFeatures, order),
    hessian,
    [inFeatures],
  );
  let start = 0;
  for (const { name, outFeatures } of stored) {
    await writePart(writer, name, int4, { blockSize, rows: { start, end: start += outFeatures } });
  }
  return {
    reconstruction: takeRows(reconstruction, inFeatures, inverseOrder(order)),
    relativeSquaredError,
  };
}

/**
 * A matrix whose columns are cut. Important columns come first, so GPTQ moves the error of what every rate keeps into
 * what narrower rates drop, and never the other way round (uniql.md §6.3); groups end where segments do.
 */
async function quantizeSegments(
  quantization: Quantization,
  weight: Floats,
  { gram, drift, order, stored, levels }: ProjectionStatistics,
): Promise<Quantized> {
  const { algebra, blockSize, writer } = quantization;
  const columns = order.length;
  const dampening = dampeningFor(columns, quantization.tokens);
  const whole = takeColumns(await withoutDrift(algebra, weight, { missing: drift, gram }), columns, order);
  const { weight: wanted, gram: weighed } = await nestedLeastSquares(algebra, whole, {
    gram: permuteSymmetric(gram, order),
    kept: stored.flatMap(({ inFeatures }, i) =>
      new Array<number>(inFeatures).fill(keptShare(quantization, levels[i]!))
    ),
    dampening,
  });
  const hessian = await factorHessian(algebra, weighed, columns, dampening);
  const { int4, reconstruction, relativeSquaredError } = await quantizeColumns(
    quantization,
    wanted,
    hessian,
    stored.map(({ inFeatures }) => inFeatures),
  );
  let start = 0;
  for (const { name, inFeatures } of stored) {
    await writePart(writer, name, int4, { blockSize, columns: { start, end: start += inFeatures } });
  }
  return {
    reconstruction: takeColumns(reconstruction, columns, inverseOrder(order)),
    relativeSquaredError,
  };
}

/** The weight of the levels that keep what a level keeps: of the whole model, and of the others up to it. */
function keptShare({ plan: { levels }, recipe: { narrowShare } }: Quantization, level: number): number {
  return levels === 1 ? 1 : 1 - narrowShare + narrowShare * level / (levels - 1);
}
