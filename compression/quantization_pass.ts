import type { LinearAlgebra } from "../kernels/matrix.ts";
import { matrix } from "../kernels/matrix.ts";
import type { BlockTensors } from "../models/block_tensors.ts";
import { blockVector, type DenseBlock } from "../models/dense_block.ts";
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
import { factorHessian, type Hessian } from "./hessian.ts";
import type { HiddenStates } from "./hidden_states.ts";
import type { BlockOrder } from "./journal.ts";
import type { PreparedModel } from "./prepared_model.ts";
import { quantize, type QuantizedMatrix } from "./quantize.ts";
import type { Recipe } from "./recipe.ts";
import type { MatrixError } from "./report.ts";
import { inverseOrder, permuteSymmetric } from "./segments.ts";

type Floats = Float32Array<ArrayBuffer>;

export interface Quantization {
  readonly algebra: LinearAlgebra;
  readonly plan: ModelPlan;
  readonly blockSize: BlockSize;
  readonly recipe: Pick<Recipe, "quantizer" | "scaleSearch">;
  readonly writer: SafetensorsWriter;
}

/**
 * Quantizes one block and sends the activations through what it became, so that the next block is calibrated on what it
 * will really read (uniql.md §6.3).
 *
 * @param block Its tensors, as the method's `arrange` left them.
 * @param collecting A session that adds up `hessianStatistics` and leaves the activations as they are.
 * @param running A session that does the opposite.
 * @param hidden What enters the block; what leaves the quantized one afterwards.
 */
export async function quantizeBlock(
  quantization: Quantization,
  { plan, block, order, collecting, running, hidden }: {
    plan: BlockPlan;
    block: BlockTensors;
    order: BlockOrder;
    collecting: DenseBlock;
    running: DenseBlock;
    hidden: HiddenStates;
  },
): Promise<MatrixError[]> {
  checkSameKind(plan.name, plan, block, order);
  const { plan: { config }, writer } = quantization;
  const { pack, projections } = methodOf(plan.kind);
  const weights = pack(config, block, order);
  for (const { name } of blockVectors(config, plan)) {
    await writer.write(name, blockVector(weights, name.slice(plan.name.length + 1)));
  }
  collecting.resetStatistics();
  collecting.setWeights(weights);
  for (const window of hidden.windows) await collecting.run(window);

  const packed = weights as unknown as Readonly<Record<string, Floats | null>>;
  const quantized: Record<string, Floats> = {};
  const errors: MatrixError[] = [];
  for (const projection of projections) {
    const { weight, bias, input, cut } = projection;
    const stored = projection.stored(config, plan);
    const gram = collecting.statistics.get(`${input}.gram`)!;
    const order = projection.order(config, plan);
    const quantizeCut = { rows: quantizeRows, columns: quantizeSegments }[cut];
    const { reconstruction, error } = await quantizeCut(quantization, packed[weight]!, gram, order, stored);
    quantized[weight] = reconstruction;
    errors.push(errorOf(stored[0]!.name.replace(/\.0$/, ""), error));
    const added = bias === undefined ? null : packed[bias]!;
    if (added !== null) await writeBias(writer, cut === "rows" ? takeRows(added, 1, order) : added, cut, stored);
  }
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
 * Quantizes embedding, head and what stands between them, and returns the embedding as it will be read.
 *
 * @param headGram `XᵀX` of what leaves the last norm, `[D, D]`.
 */
export async function quantizeOuter(
  quantization: Quantization,
  model: PreparedModel,
  headGram: Floats,
  progress: (share: number) => void,
): Promise<{ embedding: Floats; errors: MatrixError[] }> {
  const { algebra, plan, writer } = quantization;
  const { config } = plan;
  const { hiddenSize: D } = config;
  const errors: MatrixError[] = [];
  await writer.write("final_norm", await model.readFinalNorm());

  let headInputs = headGram;
  const rotation = await model.readHeadRotation();
  if (rotation !== null) {
    const { reconstruction, error } = await quantizeWhole(
      quantization,
      headRotationMatrix(config),
      rotation,
      await factorHessian(algebra, headGram, D),
    );
    errors.push(errorOf("head_rotation", error));
    // What the head reads is R·x, with R as quantized.
    const half = new Float32Array(D * D);
    headInputs = new Float32Array(D * D);
    await algebra.multiply(matrix(reconstruction, D, D), matrix(headGram, D, D), matrix(half, D, D));
    await algebra.multiply(matrix(half, D, D), matrix(reconstruction, D, D), matrix(headInputs, D, D), {
      transposeB: true,
    });
  }
  const embedding = await model.readEmbedding();
  if (config.tieWordEmbeddings) {
    const hessian = await factorHessian(algebra, withEqualWeight(headInputs, D), D);
    const tied = await quantizeWhole(quantization, embeddingMatrix(config), embedding, hessian, progress);
    errors.push(errorOf("embedding", tied.error));
    return { embedding: tied.reconstruction, errors };
  }
  // A looked-up row is not multiplied by anything: every column weighs the same.
  const identity = new Float32Array(D * D);
  for (let i = 0; i < D; i++) identity[i * D + i] = 1;
  const rows = await quantizeWhole(
    { ...quantization, recipe: { ...quantization.recipe, quantizer: "nearest" } },
    embeddingMatrix(config),
    embedding,
    await factorHessian(algebra, identity, D),
    (share) => progress(share / 2),
  );
  const head = await quantizeWhole(
    quantization,
    headMatrix(config),
    (await model.readHead())!,
    await factorHessian(algebra, headInputs, D),
    (share) => progress((1 + share) / 2),
  );
  errors.push(errorOf("embedding", rows.error), errorOf("head", head.error));
  return { embedding: rows.reconstruction, errors };
}

/**
 * What the errors of a tied matrix cost: as a head what its inputs say, as an embedding the same in every column. Half
 * each is better than either alone (SmolLM2-135M, everything else in float, WikiText-2: perplexity 19.50, with the head's
 * share alone 20.27, with both 20.09, with ten times as much for the embedding 20.39).
 */
function withEqualWeight(gram: Floats, size: number): Floats {
  const both = gram.slice();
  let trace = 0;
  for (let i = 0; i < size; i++) trace += gram[i * size + i]!;
  for (let i = 0; i < size; i++) both[i * size + i]! += trace / size;
  return both;
}

interface Quantized {
  /** In the order that was given. */
  readonly reconstruction: Floats;
  /** See `QuantizedMatrix.relativeError`. */
  readonly error: number;
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
  let error = 0;
  for (let row = 0; row < outFeatures; row += ROWS_AT_ONCE) {
    const rows = Math.min(ROWS_AT_ONCE, outFeatures - row);
    const part = await quantizeColumns(
      quantization,
      weight.slice(row * inFeatures, (row + rows) * inFeatures),
      hessian,
      [inFeatures],
    );
    const packed = packInt4(part.int4, { blockSize });
    codes.set(packed.codes, row * blocks * blockSize / 2);
    scales.set(packed.scales, row * blocks);
    reconstruction.set(part.reconstruction, row * inFeatures);
    error += part.relativeError * rows / outFeatures;
    progress?.((row + rows) / outFeatures);
  }
  await writer.write(`${name}.codes`, codes);
  await writer.write(`${name}.scales`, scales);
  return { reconstruction, error };
}

/** A matrix whose rows are cut: rows do not influence each other, so it is quantized whole and stored in pieces. */
async function quantizeRows(
  quantization: Quantization,
  weight: Floats,
  gram: Floats,
  order: readonly number[],
  stored: readonly Matrix[],
): Promise<Quantized> {
  const { algebra, blockSize, writer } = quantization;
  const { inFeatures } = stored[0]!;
  const hessian = await factorHessian(algebra, gram, inFeatures);
  const { int4, reconstruction, relativeError } = await quantizeColumns(
    quantization,
    takeRows(weight, inFeatures, order),
    hessian,
    [inFeatures],
  );
  let start = 0;
  for (const { name, outFeatures } of stored) {
    await write(writer, name, int4, { blockSize, rows: { start, end: start += outFeatures } });
  }
  return { reconstruction: takeRows(reconstruction, inFeatures, inverseOrder(order)), error: relativeError };
}

/**
 * A matrix whose columns are cut. Important columns come first, so GPTQ moves the error of what every rate keeps into
 * what narrower rates drop, and never the other way round (uniql.md §6.3); groups end where segments do.
 */
async function quantizeSegments(
  quantization: Quantization,
  weight: Floats,
  gram: Floats,
  order: readonly number[],
  stored: readonly Matrix[],
): Promise<Quantized> {
  const { algebra, blockSize, writer } = quantization;
  const columns = order.length;
  const hessian = await factorHessian(algebra, permuteSymmetric(gram, order), columns);
  const { int4, reconstruction, relativeError } = await quantizeColumns(
    quantization,
    takeColumns(weight, columns, order),
    hessian,
    stored.map(({ inFeatures }) => inFeatures),
  );
  let start = 0;
  for (const { name, inFeatures } of stored) {
    await write(writer, name, int4, { blockSize, columns: { start, end: start += inFeatures } });
  }
  return { reconstruction: takeColumns(reconstruction, columns, inverseOrder(order)), error: relativeError };
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
    hessian,
    scaleSearch: recipe.scaleSearch,
  });
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

function errorOf(matrix: string, relativeError: number): MatrixError {
  return { matrix, relativeError: Math.sqrt(relativeError) };
}
