import { describe, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { ElementType, GraphBuilder, openRuntime } from "../onnx/mod.ts";
import { randomNumbers } from "./random_numbers.ts";
import { stateEnergies, stateGrams } from "./state_space_statistics.ts";

const CHUNK = 4;
const SHAPE = { numHeads: 4, headDim: 3, numGroups: 2, stateSize: 5, chunkSize: CHUNK };
const { numHeads: H, headDim: P, numGroups: G, stateSize: N } = SHAPE;

describe("stateEnergies() and stateGrams()", () => {
  // Whole chunks, a last one that is short, and a sequence shorter than a chunk.
  for (const rows of [8, 10, 3]) {
    it(`equals plain loops over ${rows} tokens in chunks of ${CHUNK}`, async () => {
      const random = randomNumbers(rows);
      const draw = (length: number, low: number, high: number) =>
        Float32Array.from({ length }, () => low + (high - low) * random());
      const [x, b, c] = [H * P, G * N, G * N].map((width) => draw(rows * width, -1, 1)) as [
        Float32Array<ArrayBuffer>,
        Float32Array<ArrayBuffer>,
        Float32Array<ArrayBuffer>,
      ];
      const [delta, logDecay] = [draw(rows * H, 0.1, 1), draw(rows * H, -1, -0.1)];
      const found = await compute(rows, { x, b, c, delta, logDecay });

      const stepped = new Float64Array(H * N);
      const read = new Float64Array(G * N);
      const grams = new Float64Array(H * P * P);
      for (let row = 0; row < rows; row++) {
        for (let at = 0; at < H * N; at++) {
          const [head, m] = [Math.floor(at / N), at % N];
          const group = Math.floor(head / (H / G));
          stepped[at]! += (delta[row * H + head]! * b[(row * G + group) * N + m]!) ** 2;
        }
        for (let at = 0; at < G * N; at++) read[at]! += c[row * G * N + at]! ** 2;
      }
      for (let head = 0; head < H; head++) {
        const group = Math.floor(head / (H / G));
        for (let start = 0; start < rows; start += CHUNK) {
          const state = new Float64Array(P * N);
          for (let row = start; row < Math.min(rows, start + CHUNK); row++) {
            const kept = Math.exp(logDecay[row * H + head]!);
            for (let p = 0; p < P; p++) {
              for (let m = 0; m < N; m++) {
                const at = p * N + m;
                state[at] = kept * state[at]! +
                  delta[row * H + head]! * x[(row * H + head) * P + p]! * b[(row * G + group) * N + m]!;
              }
            }
          }
          for (let p = 0; p < P; p++) {
            for (let q = 0; q < P; q++) {
              for (let m = 0; m < N; m++) grams[(head * P + p) * P + q]! += state[p * N + m]! * state[q * N + m]!;
            }
          }
        }
      }
      near(found.get("stepped_energies")!, stepped);
      near(found.get("read_energies")!, read);
      near(found.get("state_grams")!, grams);
    });
  }
});

async function compute(
  rows: number,
  inputs: Readonly<Record<"x" | "b" | "c" | "delta" | "logDecay", Float32Array<ArrayBuffer>>>,
): Promise<Map<string, Float32Array>> {
  const runtime = openRuntime();
  const graph = new GraphBuilder();
  const shapes = { x: [H, P], b: [G, N], c: [G, N], delta: [H], logDecay: [H] };
  const input = (name: keyof typeof shapes) => graph.input(name, ElementType.float32, ["rows", ...shapes[name]]);
  const values = { x: input("x"), b: input("b"), c: input("c"), delta: input("delta"), logDecay: input("logDecay") };
  const sums = [...stateEnergies(graph, values, SHAPE), ...stateGrams(graph, values, SHAPE)];
  for (const { name, shape, increment } of sums) graph.output(name, increment, ElementType.float32, shape);
  using session = await runtime.openSession({ model: graph.build(), threads: 1 });
  using binding = session.bind();
  for (const [name, data] of Object.entries(inputs)) {
    binding.input(name, runtime.tensor(ElementType.float32, [rows, ...shapes[name as keyof typeof shapes]], data));
  }
  const found = new Map<string, Float32Array>();
  for (const { name, shape } of sums) {
    const output = runtime.tensor(ElementType.float32, shape, new Float32Array(shape.reduce((a, b) => a * b, 1)));
    binding.output(name, output);
    found.set(name, output.data);
  }
  await binding.run();
  return found;
}

function near(found: ArrayLike<number>, expected: ArrayLike<number>): void {
  ok(found.length === expected.length);
  for (let i = 0; i < expected.length; i++) {
    ok(Math.abs(found[i]! - expected[i]!) < 1e-5 * (1 + Math.abs(expected[i]!)), `${i}: ${found[i]}, ${expected[i]}`);
  }
}
