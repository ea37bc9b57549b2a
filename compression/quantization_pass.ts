import type { LinearAlgebra } from "../kernels/matrix.ts";
import { matrix } from "../kernels/matrix.ts";
import { blockVector, type BlockWeights, type DenseBlock } from "../models/dense_block.ts";
import type { Floats } from "../models/floats.ts";
import { type BlockSize, groupStartsOf, type Int4Codes, packInt4 } from "../models/int4.ts";
import { takeColumns, takeRows } from "../models/layout.ts";
import {
  type BlockPlan,
  blockVectors,
  embeddingMatrix,
  headMatrix,
  headRotationMatrix,
  type Matrix,
  type ModelPlan,
} from "../models/plan.ts";
import type { SafetensorsWriter } from "../models/safetensors_writer.ts";
import { checkSameKind, methodOf } from "./blocks/mod.ts";
import { dampeningFor, factorHessian, type Hessian } from "./hessian.ts";
import { withoutDrift, withoutInputDrift } from "./drift.ts";
import { type HiddenStates, normalized } from "./hidden_states.ts";
import { naming } from "./naming.ts";
import type { PreparedModel } from "./prepared_model.ts";
import { quantize, type QuantizedMatrix } from "./quantize.ts";
import type { Recipe } from "./recipe.ts";
import type { MatrixError } from "./report.ts";
import { narrowWeights } from "./narrow_weights.ts";
import { nestedLeastSquares } from "./nested_least_squares.ts";
import { inverseOrder, permuteSymmetric } from "./permutations.ts";

/** What passes between two blocks. */
export interface Streams {
  /** In the quantized network. */
  readonly hidden: HiddenStates;
  /** In the quantized network at `narrowLevel`; null where narrow rates do not count. */
  readonly narrow: HiddenStates | null;
  /** In the float network. */
  readonly reference: HiddenStates;
}

/** The level that stands for all narrow ones where a network has to be run: the middle one. */
export function narrowLevel({ levels }: ModelPlan): number {
  return levels >> 1;
}

export interface Quantization {
  readonly algebra: LinearAlgebra;
  readonly plan: ModelPlan;
  readonly blockSize: BlockSize;
  readonly recipe: Pick<Recipe, "quantizer" | "scaleSearch" | "balance" | "narrowShare">;
  /** Tokens of the calibration text. */
  readonly tokens: number;
  readonly writer: SafetensorsWriter;
}

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

/**
 * Quantizes the embedding, which is also the head where that is tied, and returns it as it will be read.
 *
 * @param headGram `XᵀX` of what leaves the last norm of the unmodified network, `[D, D]`.
 * @throws {RangeError} As for {@linkcode quantizeBlock}.
 */
export async function quantizeEmbedding(
  quantization: Quantization,
  model: PreparedModel,
  headGram: Floats,
  progress: (share: number) => void,
): Promise<{ embedding: Floats; error: MatrixError }> {
  const { algebra, plan: { config }, recipe } = quantization;
  const { hiddenSize: D } = config;
  // A looked-up row is not multiplied by anything: every column weighs the same, and nothing makes up for anything.
  const [quantizer, gram] = config.tieWordEmbeddings
    ? [recipe.quantizer, withEqualWeight(await headInputs(algebra, await model.readHeadRotation(), headGram, D), D)]
    : ["nearest" as const, identity(D)];
  const { reconstruction, relativeSquaredError } = await quantizeWhole(
    { ...quantization, recipe: { ...recipe, quantizer } },
    embeddingMatrix(config),
    await model.readEmbedding(),
    await naming("embedding", () => factorHessian(algebra, gram, D)),
    progress,
  );
  return { embedding: reconstruction, error: errorOf("embedding", relativeSquaredError) };
}

/**
 * Quantizes what stands between the last block and the logits, on what leaves the quantized blocks and towards what
 * leaves the float ones.
 *
 * @param streams What leaves the last block.
 * @throws {RangeError} As for {@linkcode quantizeBlock}.
 */
export async function quantizeHead(
  quantization: Quantization,
  model: PreparedModel,
  { hidden, narrow, reference }: Streams,
): Promise<MatrixError[]> {
  const { algebra, plan: { config }, writer, recipe: { narrowShare } } = quantization;
  const { hiddenSize: D, rmsNormEps } = config;
  const norm = await model.readFinalNorm();
  await writer.write("final_norm", norm);
  const [rotation, head] = [await model.readHeadRotation(), await model.readHead()];
  const matrices = [
    { matrix: headRotationMatrix(config), weight: rotation, name: "head_rotation" },
    { matrix: headMatrix(config), weight: head, name: "head" },
  ].filter(({ weight }) => weight !== null);
  if (matrices.length === 0) return [];

  const gram = new Float32Array(D * D);
  const drift = new Float32Array(D * D);
  const weighed: readonly (readonly [HiddenStates, number])[] = narrow === null
    ? [[hidden, 1]]
    : [[hidden, 1 - narrowShare], [narrow, narrowShare]];
  for (const [stream, alpha] of weighed) {
    for (const [index, window] of stream.windows.entries()) {
      const x = normalized(window, norm, rmsNormEps);
      const missing = normalized(reference.windows[index]!, norm, rmsNormEps);
      for (let i = 0; i < x.length; i++) missing[i]! -= x[i]!;
      const rows = x.length / D;
      await algebra.gram(matrix(x, rows, D), matrix(gram, D, D), { alpha, beta: 1 });
      await algebra.multiply(matrix(missing, rows, D), matrix(x, rows, D), matrix(drift, D, D), {
        transposeA: true,
        alpha,
        beta: 1,
      });
    }
  }
  const hessian = await naming("head", () => factorHessian(algebra, gram, D, dampeningFor(D, quantization.tokens)));
  const errors: MatrixError[] = [];
  for (const { matrix, weight, name } of matrices) {
    const { relativeSquaredError } = await quantizeWhole(
      quantization,
      matrix,
      await naming(name, () => withoutInputDrift(algebra, weight!, { drift, gram })),
      hessian,
    );
    errors.push(errorOf(name, relativeSquaredError));
  }
  return errors;
}

/**
 * How much an error in the embedding counts beside one in the head. (SmolLM2-135M, everything else in float, divergence
 * from the float model in nats per token, on WikiText-2's validation text and on held-out text of the calibration: 0.0189
 * and 0.0292 with 1, 0.0173 and 0.0281 with 0.4. Without the embedding's share perplexity is worse by 1 %.)
 */
const EMBEDDING_SHARE = 0.4;

/** What the errors of a tied matrix cost: as a head what its inputs say, as an embedding the same in every column. */
function withEqualWeight(gram: Floats, size: number): Floats {
  const both = gram.slice();
  let trace = 0;
  for (let i = 0; i < size; i++) trace += gram[i * size + i]!;
  for (let i = 0; i < size; i++) both[i * size + i]! += EMBEDDING_SHARE * trace / size;
  return both;
}

/** `R·XᵀX·Rᵀ` for the head's rotation R; `XᵀX` where there is none. */
async function headInputs(
  algebra: LinearAlgebra,
  rotation: Floats | null,
  gram: Floats,
  size: number,
): Promise<Floats> {
  if (rotation === null) return gram;
  const square = (data: Floats) => matrix(data, size, size);
  const [half, whole] = [new Float32Array(size * size), new Float32Array(size * size)];
  await algebra.multiply(square(rotation), square(gram), square(half));
  await algebra.multiply(square(half), square(rotation), square(whole), { transposeB: true });
  return whole;
}

function identity(size: number): Floats {
  const square = new Float32Array(size * size);
  for (let i = 0; i < size; i++) square[i * size + i] = 1;
  return square;
}

interface Quantized {
  /** In the order that was given. */
  readonly reconstruction: Floats;
  /** See `QuantizedMatrix.relativeSquaredError`. */
  readonly relativeSquaredError: number;
}

/** Rows of a tall matrix that are quantized at once, to bound the memory of their working copies. */
const ROWS_AT_ONCE = 8192;

/** A matrix that no rate cuts. */
async function quantizeWhole(
  quantization: Quantization,
  { name, outFeatures, inFeatures }: Matrix,
  weight: Floats,
  hessian: Hessian,
  progress?: (share: number) => void,
): Promise<Quantized> {
  const { blockSize, writer } = quantization;
  const blocks = Math.ceil(inFeatures / blockSize);
  const codes = new Uint8Array(outFeatures * blocks * blockSize / 2);
  const scales = new Uint16Array(outFeatures * blocks);
  const reconstruction = new Float32Array(weight.length);
  let relativeSquaredError = 0;
  for (let row = 0; row < outFeatures; row += ROWS_AT_ONCE) {
    const rows = Math.min(ROWS_AT_ONCE, outFeatures - row);
    const part = await naming(name, () =>
      quantizeColumns(
        quantization,
        weight.slice(row * inFeatures, (row + rows) * inFeatures),
        hessian,
        [inFeatures],
      ));
    const packed = packInt4(part.int4, { blockSize });
    codes.set(packed.codes, row * blocks * blockSize / 2);
    scales.set(packed.scales, row * blocks);
    reconstruction.set(part.reconstruction, row * inFeatures);
    relativeSquaredError += part.relativeSquaredError * rows / outFeatures;
    progress?.((row + rows) / outFeatures);
  }
  await writer.write(`${name}.codes`, codes);
  await writer.write(`${name}.scales`, scales);
  return { reconstruction, relativeSquaredError };
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
    await write(writer, name, int4, { blockSize, rows: { start, end: start += outFeatures } });
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
  const nested = await nestedLeastSquares(algebra, whole, {
    gram: permuteSymmetric(gram, order),
    kept: stored.flatMap(({ inFeatures }, i) =>
      new Array<number>(inFeatures).fill(keptShare(quantization, levels[i]!))
    ),
    dampening,
  });
  const hessian = await factorHessian(algebra, nested.gram, columns, dampening);
  const wanted = nested.weight;
  const { int4, reconstruction, relativeSquaredError } = await quantizeColumns(
    quantization,
    wanted,
    hessian,
    stored.map(({ inFeatures }) => inFeatures),
  );
  let start = 0;
  for (const { name, inFeatures } of stored) {
    await write(writer, name, int4, { blockSize, columns: { start, end: start += inFeatures } });
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

function quantizeColumns(
  { algebra, blockSize, recipe }: Quantization,
  weight: Floats,
  hessian: Hessian,
  segments: readonly number[],
): Promise<QuantizedMatrix> {
  const { inFeatures } = hessian;
  return quantize(algebra, recipe.quantizer, {
    weight,
    outFeatures: weight.length / inFeatures,
    inFeatures,
    groupStarts: groupStartsOf(segments, blockSize),
    segmentStarts: startsOf(segments),
    hessian,
    scaleSearch: recipe.scaleSearch,
  });
}

function startsOf(widths: readonly number[]): number[] {
  let end = 0;
  return widths.map((width) => (end += width) - width);
}

async function write(
  writer: SafetensorsWriter,
  name: string,
  int4: Int4Codes,
  part: Parameters<typeof packInt4>[1],
): Promise<void> {
  const { codes, scales } = packInt4(int4, part);
  await writer.write(`${name}.codes`, codes);
  await writer.write(`${name}.scales`, scales);
}

function errorOf(matrix: string, relativeSquaredError: number): MatrixError {
  return { matrix, relativeError: Math.sqrt(relativeSquaredError) };
}
