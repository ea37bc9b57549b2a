import { ABSENT, ElementType, type FileRange, type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import type { AttentionPlan, Matrix } from "../plan.ts";

/** How stored tensors enter a graph: the only thing that differs between a quantized and a float model. */
export interface Weights {
  /** `x · Wᵀ (+ bias)`: `[rows, inFeatures]` → `[rows, outFeatures]`. Zero rows are fine. */
  product(graph: GraphBuilder, x: Value, matrix: Matrix): Value;
  /** Rows of the embedding: int64 `[rows]` → float32 `[rows, D]`. */
  embed(graph: GraphBuilder, tokens: Value, embedding: Matrix): Value;
  /** A float32 vector that is stored as it is: a norm's weight. */
  vector(graph: GraphBuilder, name: string, length: number): Value;
  /** Original rotary pair at each pair of places of every key/value head, int64 `[G, widest / 2]`; see `Rotary`. */
  pairs(graph: GraphBuilder, block: AttentionPlan, shape: readonly [number, number]): Value;
}

/** Where a matrix lies in the file of weights: the first byte of each of its tensors. */
export interface MatrixPlace {
  readonly codes: number;
  readonly scales: number;
  readonly bias: number | null;
}

/** Weights that are stored as int4 codes. */
export interface Int4Weights extends Weights {
  readonly blockSize: number;
  /** All of the file, uint8 `[bytes]`. */
  file(graph: GraphBuilder): Value;
  placeOf(matrix: Matrix): MatrixPlace;
  /** A matrix as it is stored: codes `[N, blocks, blockSize / 2]`, float16 scales `[N, blocks]`, float32 bias `[N]`. */
  stored(graph: GraphBuilder, matrix: Matrix): { codes: Value; scales: Value; bias: Value | null };
}

/** Where the tensors of an artefact lie. @throws {RangeError} If there is none of that name. */
export type TensorLocator = (name: string) => FileRange;

/**
 * Activations are quantized to int8 per block inside the product: 3 × faster than float32 with one row (measured on
 * AVX-512 VNNI).
 */
const INT8_ACTIVATIONS = 4;

/**
 * Int4 weights as `MatMulNBits` reads them: codes `[N, ceil(K / blockSize), blockSize / 2]`, float16 scales.
 *
 * The scales are cast to float32 once, when the session is opened.
 *
 * @param accuracy 0 computes in float32: for tests of exactness.
 */
export function int4Weights(
  { blockSize, file, locate, pairsOf, accuracy = INT8_ACTIVATIONS }: {
    blockSize: number;
    /** All of the file that the tensors lie in. */
    file: FileRange;
    locate: TensorLocator;
    /** The rotary pairs of a block, G rows of half its widest width. */
    pairsOf: (block: AttentionPlan) => readonly number[];
    accuracy?: 0 | 4;
  },
): Int4Weights {
  const tensor = (graph: GraphBuilder, name: string, type: ElementType, shape: readonly number[], alias = name) =>
    graph.initializer(alias, type, shape, locate(name));
  const toFloat = (graph: GraphBuilder, value: Value) =>
    graph.op("Cast", [value], { attributes: { to: ElementType.float32 } });
  const stored = (graph: GraphBuilder, { name, outFeatures, inFeatures, bias }: Matrix) => {
    const blocks = Math.ceil(inFeatures / blockSize);
    return {
      codes: tensor(graph, `${name}.codes`, ElementType.uint8, [outFeatures, blocks, blockSize / 2]),
      scales: tensor(graph, `${name}.scales`, ElementType.float16, [outFeatures, blocks]),
      bias: bias ? tensor(graph, `${name}.bias`, ElementType.float32, [outFeatures]) : null,
    };
  };
  return {
    blockSize,
    file: (graph) => graph.initializer("weights", ElementType.uint8, [file.length], file),
    placeOf: ({ name, bias }) => ({
      codes: locate(`${name}.codes`).offset,
      scales: locate(`${name}.scales`).offset,
      bias: bias ? locate(`${name}.bias`).offset : null,
    }),
    stored,
    product(graph, x, matrix) {
      const { codes, scales, bias } = stored(graph, matrix);
      const { outFeatures, inFeatures } = matrix;
      const inputs = [x, codes, toFloat(graph, scales)];
      if (bias !== null) inputs.push(ABSENT, ABSENT, bias); // absent: zero points, group index
      return graph.op("MatMulNBits", inputs, {
        domain: MICROSOFT,
        attributes: { N: outFeatures, K: inFeatures, bits: 4, block_size: blockSize, accuracy_level: accuracy },
      });
    },
    embed(graph, tokens, { name, outFeatures, inFeatures }) {
      const blocks = inFeatures / blockSize;
      // The gathering operator wants codes in two dimensions; the bytes are the product's.
      const codes = tensor(
        graph,
        `${name}.codes`,
        ElementType.uint8,
        [outFeatures, inFeatures / 2],
        `${name}.codes.rows`,
      );
      const scales = tensor(graph, `${name}.scales`, ElementType.float16, [outFeatures, blocks]);
      const rows = graph.op("GatherBlockQuantized", [codes, tokens, scales], {
        domain: MICROSOFT,
        attributes: { bits: 4, block_size: blockSize, gather_axis: 0, quantize_axis: 1 },
      });
      return toFloat(graph, rows);
    },
    vector: (graph, name, length) => tensor(graph, name, ElementType.float32, [length]),
    pairs: (graph, block, shape) => graph.integers(pairsOf(block), shape),
  };
}

/** Float32 weights as graph inputs, so that one session serves every layer of a model. */
export function floatWeights(): Weights {
  const inputs = new Map<string, Value>();
  const input = (graph: GraphBuilder, name: string, shape: readonly number[]) => {
    let value = inputs.get(name);
    if (value === undefined) inputs.set(name, value = graph.input(name, ElementType.float32, shape));
    return value;
  };
  return {
    product(graph, x, { name, outFeatures, inFeatures, bias }) {
      const weight = input(graph, `${name}.weight`, [outFeatures, inFeatures]);
      const operands = bias ? [x, weight, input(graph, `${name}.bias`, [outFeatures])] : [x, weight];
      return graph.op("Gemm", operands, { attributes: { transB: 1 } });
    },
    embed(graph, tokens, { name, outFeatures, inFeatures }) {
      return graph.op("Gather", [input(graph, `${name}.weight`, [outFeatures, inFeatures]), tokens]);
    },
    vector: (graph, name, length) => input(graph, name, [length]),
    pairs: (graph, block, shape) => graph.input(`${block.name}.pairs`, ElementType.int64, shape),
  };
}
