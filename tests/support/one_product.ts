import { ABSENT, type Attribute, ElementType, GraphBuilder, openRuntime, type Session } from "../../onnx/mod.ts";

const BLOCK_SIZE = 128;

export interface ProductOptions {
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** In place of the right ones. */
  readonly attributes?: Readonly<Record<string, Attribute>>;
  /** Bytes of the file, in place of the right number. */
  readonly bytes?: number;
  /** Makes the file an input of the graph. */
  readonly fileVaries?: boolean;
}

/** A session over one `PrefixMatMul` of weights that are all alike, from `x` to `y`. @param operators Path of the library. */
export async function openProduct(operators: string, options: ProductOptions): Promise<Session> {
  const { inFeatures, outFeatures, attributes, fileVaries = false } = options;
  const blocks = outFeatures * Math.ceil(inFeatures / BLOCK_SIZE);
  const codeBytes = blocks * BLOCK_SIZE / 2;
  const { bytes = codeBytes + 2 * blocks } = options;
  const file = new Uint8Array(codeBytes + 2 * blocks);
  file.fill(0x37, 0, codeBytes).set(new Uint8Array(new Float16Array(blocks).fill(0.01).buffer), codeBytes);
  const graph = new GraphBuilder();
  const y = graph.op("PrefixMatMul", [
    ...[graph.input("x", ElementType.float32, ["rows", "columns"]), ABSENT, ABSENT, ABSENT],
    fileVaries
      ? graph.input("file", ElementType.uint8, [bytes])
      : graph.initializer("file", ElementType.uint8, [bytes], file.subarray(0, bytes)),
  ], {
    domain: "espalier",
    attributes: {
      ...{ cut: 0, activation: 0, groups: [1], uncut: inFeatures, block_size: BLOCK_SIZE, epsilon: { float: 0 } },
      ...{ widths: [outFeatures], levels: [0], biases: [0], places: [0, codeBytes] },
      ...attributes,
    },
  });
  graph.output("y", y, ElementType.float32);
  return await openRuntime().openSession({ model: graph.build(), threads: 2, operators });
}

/** Runs a few rows through a product. */
export async function multiply(session: Session, inFeatures: number, outFeatures: number): Promise<Float32Array> {
  const rows = 2;
  const runtime = openRuntime();
  const y = new Float32Array(rows * outFeatures);
  using input = runtime.tensor(ElementType.float32, [rows, inFeatures], new Float32Array(rows * inFeatures).fill(0.5));
  using output = runtime.tensor(ElementType.float32, [rows, outFeatures], y);
  using binding = session.bind();
  await binding.input("x", input).output("y", output).run();
  return y;
}
