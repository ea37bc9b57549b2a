import type { LinearAlgebra } from "../kernels/matrix.ts";
import { matrix } from "../kernels/matrix.ts";
import type { BlockTensors } from "../models/block_tensors.ts";
import { blockVector, type DenseBlock } from "../models/dense_block.ts";
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
import type { BlockOrder } from "./journal.ts";
import { naming } from "./naming.ts";
import type { PreparedModel } from "./prepared_model.ts";
import { quantize, type QuantizedMatrix } from "./quantize.ts";
import type { Recipe } from "./recipe.ts";
import type { MatrixError } from "./report.ts";
import { inverseOrder, permuteSymmetric } from "./permutations.ts";

export interface Quantization {
  readonly algebra: LinearAlgebra;
  readonly plan: ModelPlan;
  readonly blockSize: BlockSize;
  readonly recipe: Pick<Recipe, "quantizer" | "scaleSearch" | "balance">;
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
 * will really read (uniql.md §6.3). Each projection is quantized towards what the unmodified network has in its place,
 * those that write the stream last, on what the others became.
 *
 * @param block Its tensors, as the method's `arrange` left them.
 * @param streams What enters the block, in the quantized network and in the unmodified one; what leaves it afterwards.
 * @throws {RangeError} If a weight is too large for the format, or activations overflow; the message names the matrix.
 */
export async function quantizeBlock(
  quantization: Quantization,
  { plan, block, order, passes: { reading, writing, running }, streams: { hidden, reference } }: {
    plan: BlockPlan;
    block: BlockTensors;
    order: BlockOrder;
    passes: BlockPasses;
    streams: { hidden: HiddenStates; reference: HiddenStates };
  },
): Promise<MatrixError[]> {
  checkSameKind(plan.name, plan, block, order);
  const { plan: { config }, writer, recipe } = quantization;
  const { pack, balance, projections } = methodOf(plan.kind);
  const unbalanced = pack(config, block, order);
  const weights = recipe.balance ? balance(config, plan, unbalanced) : unbalanced;
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
          }),
      );
      quantized[weight] = reconstruction;
      errors.push(errorOf(name, relativeSquaredError));
      const added = bias === undefined ? null : packed[bias]!;
      const order = projection.order(config, plan);
      if (added !== null) await writeBias(writer, cut === "rows" ? takeRows(added, 1, order) : added, cut, stored);
    }
  };

  reading.resetStatistics();
  reading.setWeights(weights);
  for (const [index, window] of hidden.windows.entries()) {
    await reading.run(window, normalized(reference.windows[index]!, weights.norm, config.rmsNormEps));
  }
  await quantizeThose("rows", reading.statistics);

  running.setWeights(weights);
  for (const window of reference.windows) await running.run(window);
  writing.resetStatistics();
  writing.setWeights({ ...weights, ...quantized });
  for (const [index, window] of hidden.windows.entries()) await writing.run(window, reference.windows[index]!);
  await quantizeThose("columns", writing.statistics);

  running.setWeights({ ...weights, ...quantized });
  for (const window of hidden.windows) await running.run(window);
  return errors;
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
 * leaves the unmodified ones.
 *
 * @param streams What leaves the last block in either network.
 * @throws {RangeError} As for {@linkcode quantizeBlock}.
 */
export async function quantizeHead(
  quantization: Quantization,
  model: PreparedModel,
  { hidden, reference }: { hidden: HiddenStates; reference: HiddenStates },
): Promise<MatrixError[]> {
  const { algebra, plan: { config }, writer } = quantization;
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
  for (const [index, window] of hidden.windows.entries()) {
    const x = normalized(window, norm, rmsNormEps);
    const missing = normalized(reference.windows[index]!, norm, rmsNormEps);
    for (let i = 0; i < x.length; i++) missing[i]! -= x[i]!;
    const rows = x.length / D;
    await algebra.gram(matrix(x, rows, D), matrix(gram, D, D), { beta: 1 });
    await algebra.multiply(matrix(missing, rows, D), matrix(x, rows, D), matrix(drift, D, D), {
      transposeA: true,
      beta: 1,
    });
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
  { gram, drift, order, stored }: ProjectionStatistics,
): Promise<Quantized> {
  const { algebra, blockSize, writer } = quantization;
  const columns = order.length;
  const dampening = dampeningFor(columns, quantization.tokens);
  const hessian = await factorHessian(algebra, permuteSymmetric(gram, order), columns, dampening);
  const wanted = takeColumns(await withoutDrift(algebra, weight, { missing: drift, gram }), columns, order);
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
