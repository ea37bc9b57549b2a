import { cudaDevice, ElementType, GraphBuilder, type Runtime } from "../onnx/mod.ts";
import { halfProduct, toHalf, toSingle } from "./graph/half_weights.ts";
import { cudaProvider, wholeProduct } from "./graph/prefix_linear.ts";
import { dequantizeInt4 } from "./int4.ts";

/** Rows, outputs and inputs of the product, and the columns that share a scale. */
const [ROWS, OUT, IN, BLOCK] = [3, 64, 256, 32] as const;

/** Operands are rounded to half precision, whose steps are 2⁻¹¹. */
const BOUND = 1e-2;

/**
 * Multiplies a small int4 matrix on the CUDA device with the operator that will serve, and in plain TypeScript.
 *
 * @param operators Path of our operators' library; null tries a stock one.
 * @returns The relative error ‖device − here‖ / ‖here‖.
 * @throws {Error} If no session with the operator can be made, it does not run, or the results part.
 */
export async function probeDevice(runtime: Runtime, operators: string | null): Promise<number> {
  const blocks = IN / BLOCK;
  const codes = Uint8Array.from({ length: OUT * IN / 2 }, (_, i) => (i * 2_654_435_761) >>> 11 & 0xff);
  const scales = Float16Array.from({ length: OUT * blocks }, (_, i) => 0.01 + 0.001 * (i % 7));
  const x = Float32Array.from({ length: ROWS * IN }, (_, i) => Math.sin(1 + 0.37 * i));

  const graph = new GraphBuilder();
  const weights = {
    blockSize: BLOCK,
    stored: () => ({
      codes: graph.initializer("codes", ElementType.uint8, [OUT, blocks, BLOCK / 2], codes),
      scales: graph.initializer("scales", ElementType.float16, [OUT, blocks], new Uint8Array(scales.buffer)),
      bias: null,
    }),
  };
  const matrix = { name: "probe", outFeatures: OUT, inFeatures: IN, bias: false };
  const input = graph.input("x", ElementType.float32, ["rows", IN]);
  const y = operators === null
    ? toSingle(graph, halfProduct(graph, weights, toHalf(graph, input), matrix))
    : wholeProduct(graph, { provider: cudaProvider(weights), x: input, matrix });
  graph.output("y", y, ElementType.float32, ["rows", OUT]);
  using session = await runtime.openSession({
    model: graph.build(),
    threads: 1,
    ...(operators !== null && { operators }),
    cuda: { capture: false, everyNode: true },
  });
  const device = cudaDevice();
  const [from, to] = [device.allocatePinned(x.byteLength), device.allocatePinned(4 * ROWS * OUT)];
  try {
    new Float32Array(from.buffer).set(x);
    using binding = session.bind();
    using inputTensor = runtime.deviceTensor(ElementType.float32, [ROWS, IN], from);
    using outputTensor = runtime.deviceTensor(ElementType.float32, [ROWS, OUT], to);
    await binding.input("x", inputTensor).output("y", outputTensor).run();
    const weight = dequantizeInt4({ codes, scales: new Uint16Array(scales.buffer) }, {
      outFeatures: OUT,
      inFeatures: IN,
      blockSize: BLOCK,
    });
    const error = relativeError(new Float32Array(to.buffer), product(x, weight));
    if (!(error <= BOUND)) throw new Error(`a product is ${error} off on the device, ${BOUND} is allowed`);
    return error;
  } finally {
    from.free();
    to.free();
  }
}

/** x `[ROWS, IN]`, weight `[OUT, IN]` → `[ROWS, OUT]`. */
function product(x: Float32Array, weight: Float32Array): Float32Array {
  const y = new Float32Array(ROWS * OUT);
  for (let row = 0; row < ROWS; row++) {
    for (let out = 0; out < OUT; out++) {
      let sum = 0;
      for (let i = 0; i < IN; i++) sum += x[row * IN + i]! * weight[out * IN + i]!;
      y[row * OUT + out] = sum;
    }
  }
  return y;
}

/** ‖a − b‖ / ‖b‖; NaN if anything is. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, norm] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(difference / norm);
}
