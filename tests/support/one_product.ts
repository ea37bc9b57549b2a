import { ABSENT, type Attribute, ElementType, GraphBuilder, openRuntime, type Session } from "../../onnx/mod.ts";

const BLOCK_SIZE = 128;

export interface ProductOptions {
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** In place of the right ones. */
  readonly attributes?: Readonly<Record<string, Attribute>>;
  /** Bytes of codes, in place of the right number. */
  readonly codeBytes?: number;
  /** Makes the scales an input of the graph. */
  readonly scalesVary?: boolean;
}

/** A session over one `PrefixMatMul` of weights that are all alike, from `x` to `y`. @param operators Path of the library. */
export async function openProduct(operators: string, options: ProductOptions): Promise<Session> {
  const { inFeatures, outFeatures, attributes, scalesVary = false } = options;
  const blocks = Math.ceil(inFeatures / BLOCK_SIZE);
  const { codeBytes = outFeatures * blocks * BLOCK_SIZE / 2 } = options;
  const graph = new GraphBuilder();
  const scales = new Uint8Array(new Float16Array(outFeatures * blocks).fill(0.01).buffer);
  const y = graph.op("PrefixMatMul", [
    ...[graph.input("x", ElementType.float32, ["rows", "columns"]), ABSENT, ABSENT, ABSENT],
    graph.initializer("codes", ElementType.uint8, [codeBytes], new Uint8Array(codeBytes).fill(0x37)),
    scalesVary
      ? graph.input("scales", ElementType.float16, [outFeatures, blocks])
      : graph.initializer("scales", ElementType.float16, [outFeatures, blocks], scales),
  ], {
    domain: "espalier",
    attributes: {
      ...{ cut: 0, activation: 0, groups: [1], uncut: inFeatures, block_size: BLOCK_SIZE, epsilon: { float: 0 } },
      ...{ widths: [outFeatures], levels: [0], biases: [0] },
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
