import { describe, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { ElementType, GraphBuilder, openRuntime, type Value } from "../../onnx/mod.ts";
import { randomFor } from "./random.ts";
import { convolveSequences, scanSequences } from "./sequence_state_space.ts";

const SEQUENCES = 2;
const T = 7;
const ROWS = SEQUENCES * T;
const SHAPE = { numHeads: 4, headDim: 3, numGroups: 2, stateSize: 5 };
const random = randomFor(3, "weights");
const draw = (length: number, low = -1, high = 1) => Float32Array.from({ length }, () => low + (high - low) * random());

async function compute(
  inputs: Readonly<Record<string, readonly [Float32Array<ArrayBuffer>, readonly number[]]>>,
  length: number,
  build: (graph: GraphBuilder, values: Record<string, Value>) => Value,
): Promise<Float32Array> {
  const runtime = openRuntime();
  const graph = new GraphBuilder();
  const values = Object.fromEntries(
    Object.entries(inputs).map(([name, [, shape]]) => [name, graph.input(name, ElementType.float32, shape)]),
  );
  graph.output("y", graph.op("Reshape", [build(graph, values), graph.integers([-1])]), ElementType.float32);
  using session = await runtime.openSession({ model: graph.build(), threads: 1 });
  const output = runtime.tensor(ElementType.float32, [length], new Float32Array(length));
  const binding = session.bind().output("y", output);
  for (const [name, [data, shape]] of Object.entries(inputs)) {
    binding.input(name, runtime.tensor(ElementType.float32, shape, data));
  }
  await binding.run();
  return output.data;
}

function near(found: ArrayLike<number>, expected: ArrayLike<number>): void {
  for (let i = 0; i < expected.length; i++) {
    ok(Math.abs(found[i]! - expected[i]!) < 1e-5, `${i}: ${found[i]}, expected ${expected[i]}`);
  }
}

describe("convolveSequences()", () => {
  it("looks back as far as the kernel, and never into another sequence", async () => {
    const [channels, kernel] = [3, 4];
    const [x, weight, bias] = [draw(ROWS * channels), draw(channels * kernel), draw(channels)];
    const found = await compute(
      { x: [x, [ROWS, channels]], weight: [weight, [channels, 1, kernel]], bias: [bias, [channels]] },
      ROWS * channels,
      (graph, { x, weight, bias }) =>
        convolveSequences(graph, { x: x!, weight: weight!, bias: bias! }, { kernel, length: T }),
    );
    const expected = Array.from({ length: ROWS * channels }, (_, at) => {
      const [row, channel] = [Math.floor(at / channels), at % channels];
      let sum = bias[channel]!;
      for (let k = 0; k < kernel; k++) {
        const from = row % T - (kernel - 1) + k;
        if (from >= 0) sum += weight[channel * kernel + k]! * x[(row - row % T + from) * channels + channel]!;
      }
      return sum / (1 + Math.exp(-sum));
    });
    near(found, expected);
  });
});

describe("scanSequences()", () => {
  it("equals the recurrence, token by token", async () => {
    const { numHeads: H, headDim: P, numGroups: G, stateSize: N } = SHAPE;
    const [x, b, c] = [draw(ROWS * H * P), draw(ROWS * G * N), draw(ROWS * G * N)];
    const decay = draw(ROWS * H, -3, -0.1);
    const found = await compute(
      {
        x: [x, [ROWS, H, P]],
        b: [b, [ROWS, G, N]],
        c: [c, [ROWS, G, N]],
        decay: [decay, [ROWS, H]],
      },
      ROWS * H * P,
      (graph, { x, b, c, decay }) => scanSequences(graph, { x: x!, b: b!, c: c!, decay: decay! }, SHAPE, T),
    );
    const expected = new Float64Array(ROWS * H * P);
    for (let head = 0; head < H; head++) {
      const group = Math.floor(head / (H / G));
      let state = new Float64Array(P * N);
      for (let row = 0; row < ROWS; row++) {
        if (row % T === 0) state = new Float64Array(P * N);
        for (let p = 0; p < P; p++) {
          for (let m = 0; m < N; m++) {
            state[p * N + m] = Math.exp(decay[row * H + head]!) * state[p * N + m]! +
              b[(row * G + group) * N + m]! * x[(row * H + head) * P + p]!;
            expected[(row * H + head) * P + p]! += c[(row * G + group) * N + m]! * state[p * N + m]!;
          }
        }
      }
    }
    near(found, expected);
  });
});
