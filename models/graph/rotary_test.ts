import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import { ElementType, GraphBuilder, openRuntime } from "../../onnx/mod.ts";
import { TINY_LLAMA } from "../../tests/support/tiny_models.ts";
import { ropeFrequencies } from "../rope.ts";
import { rotaryOf } from "./rotary.ts";

const config = TINY_LLAMA; // 4 query heads, 2 key/value heads of 32
const H = config.numAttentionHeads;
const G = config.numKeyValueHeads;
const HEADS = H + 2 * G;
/** A different order of pairs for each key/value head. */
const ORDERS = [[3, 0, 15, 7, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14], [
  15,
  14,
  13,
  12,
  11,
  10,
  9,
  8,
  7,
  6,
  5,
  4,
  3,
  2,
  1,
  0,
]];

describe("rotaryOf()", () => {
  it("turns each pair by the frequency of the pair it originally was, and value heads not at all", async () => {
    const positions = [0, 1, 5, 130];
    const packed = noise(positions.length * HEADS * 32);
    const rotated = await rotate(packed, positions, ORDERS, 32);
    const frequencies = ropeFrequencies(config.rope, 32);
    for (const [row, position] of positions.entries()) {
      for (let head = 0; head < HEADS; head++) {
        const group = head < H ? Math.floor(head / 2) : (head - H) % G;
        for (let place = 0; place < 16; place++) {
          const at = (row * HEADS + head) * 32 + 2 * place;
          const angle = head < H + G ? position * frequencies[ORDERS[group]![place]!]! : 0;
          const [a, b] = [packed[at]!, packed[at + 1]!];
          near(rotated[at]!, a * Math.cos(angle) - b * Math.sin(angle));
          near(rotated[at + 1]!, b * Math.cos(angle) + a * Math.sin(angle));
        }
      }
    }
  });

  it("keeps the length of every pair", async () => {
    const packed = noise(2 * HEADS * 32);
    const rotated = await rotate(packed, [9, 77], ORDERS, 32);
    for (let at = 0; at < packed.length; at += 2) {
      near(Math.hypot(rotated[at]!, rotated[at + 1]!), Math.hypot(packed[at]!, packed[at + 1]!));
    }
  });

  it("gives the first pairs of a narrower head what they get in the full one", async () => {
    const packed = noise(2 * HEADS * 32);
    const narrow = Float32Array.from({ length: 2 * HEADS * 16 }, (_, i) => packed[Math.floor(i / 16) * 32 + i % 16]!);
    const whole = await rotate(packed, [3, 40], ORDERS, 32);
    const sliced = await rotate(narrow, [3, 40], ORDERS.map((order) => order.slice(0, 8)), 16);
    deepEqual([...sliced], Array.from(sliced, (_, i) => whole[Math.floor(i / 16) * 32 + i % 16]!));
  });

  it("makes inner products of queries and keys depend on their distance alone", async () => {
    const row = noise(HEADS * 32);
    const packed = Float32Array.of(...row, ...row, ...row, ...row);
    const rotated = await rotate(packed, [2, 9, 52, 59], ORDERS, 32);
    const logit = (queryRow: number, keyRow: number, head: number) => {
      let sum = 0;
      for (let i = 0; i < 32; i++) {
        const key = (keyRow * HEADS + H + Math.floor(head / 2)) * 32 + i;
        sum += rotated[(queryRow * HEADS + head) * 32 + i]! * rotated[key]!;
      }
      return sum;
    };
    for (let head = 0; head < H; head++) {
      near(logit(1, 0, head), logit(3, 2, head), 1e-4);
      ok(Math.abs(logit(1, 0, head) - logit(2, 0, head)) > 1e-3);
    }
  });
});

async function rotate(
  packed: Float32Array<ArrayBuffer>,
  positions: readonly number[],
  orders: readonly (readonly number[])[],
  width: number,
): Promise<Float32Array> {
  const graph = new GraphBuilder();
  const rotary = rotaryOf(graph, config, graph.input("positions", ElementType.int64, ["rows"]));
  const input = graph.input("packed", ElementType.float32, ["rows", HEADS, width]);
  const pairs = graph.integers(orders.flat(), [G, width / 2]);
  graph.output("rotated", rotary.rotate(graph, input, pairs, width), ElementType.float32);
  const runtime = openRuntime();
  using session = await runtime.openSession({ model: graph.build(), threads: 1 });
  using binding = session.bind();
  const rows = positions.length;
  const rotated = new Float32Array(packed.length);
  equal(packed.length, rows * HEADS * width);
  await binding
    .input("positions", runtime.tensor(ElementType.int64, [rows], BigInt64Array.from(positions, BigInt)))
    .input("packed", runtime.tensor(ElementType.float32, [rows, HEADS, width], packed))
    .output("rotated", runtime.tensor(ElementType.float32, [rows, HEADS, width], rotated))
    .run();
  return rotated;
}

function noise(length: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length }, (_, i) => Math.sin(12.9898 * (i + 1)) * 2);
}

function near(actual: number, expected: number, tolerance = 2e-5): void {
  ok(Math.abs(actual - expected) < tolerance, `${actual}, expected ${expected}`);
}
