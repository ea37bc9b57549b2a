import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import { TINY_QWEN } from "../tests/support/tiny_models.ts";
import type { ModelConfig } from "./description.ts";
import {
  type AttentionTensors,
  foldValueBias,
  headComponents,
  originalPairs,
  packAttention,
  packGatedMlp,
  takeColumns,
  takeRows,
} from "./layout.ts";

/** H = 4, G = 2, K = 8, D = 3: everything differs, so that no index fits by chance. */
const CONFIG: ModelConfig = {
  ...TINY_QWEN,
  hiddenSize: 3,
  intermediateSize: 5,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 8,
};
const [D, F, H, G, K] = [3, 5, 4, 2, 8];
const PAIRS = [[2, 0, 3, 1], [1, 3, 0, 2]];

/** Each element says where it is: `base + row + column / 10`. */
const numbered = (rows: number, columns: number, base: number) =>
  Float32Array.from({ length: rows * columns }, (_, i) => base + Math.floor(i / columns) + i % columns / 10);
const vector = (length: number, base: number) => Float32Array.from({ length }, (_, i) => base + i);

const TENSORS: AttentionTensors = {
  query: numbered(H * K, D, 1000),
  key: numbered(G * K, D, 2000),
  value: numbered(G * K, D, 3000),
  output: numbered(D, H * K, 4000),
};
const BIASES = { queryBias: vector(H * K, 100), keyBias: vector(G * K, 200), valueBias: vector(G * K, 300) };

describe("packAttention()", () => {
  const { qkv, qkvBias } = packAttention(CONFIG, { ...TENSORS, ...BIASES }, PAIRS);
  const row = (at: number) => [...qkv.subarray(at * D, (at + 1) * D)];
  const original = ({ matrix, at }: { matrix: Float32Array; at: number }) => [...matrix.subarray(at * D, (at + 1) * D)];

  it("puts the two members of a pair side by side, each from its own head, in the group's order", () => {
    for (let head = 0; head < H + G; head++) {
      const isQuery = head < H;
      const [matrix, from, group] = isQuery
        ? [TENSORS.query, head, Math.floor(head / 2)]
        : [TENSORS.key, head - H, head - H];
      PAIRS[group]!.forEach((pair, at) => {
        deepEqual(row(head * K + 2 * at), original({ matrix, at: from * K + pair }), `head ${head}, pair ${pair}`);
        deepEqual(row(head * K + 2 * at + 1), original({ matrix, at: from * K + pair + K / 2 }));
      });
    }
  });

  it("copies every row once, and leaves the values as they are", () => {
    const rows = Array.from({ length: (H + 2 * G) * K }, (_, at) => row(at)[0]!);
    equal(new Set(rows).size, rows.length);
    deepEqual(qkv.subarray((H + G) * K * D), TENSORS.value);
  });

  it("moves biases with their rows", () => {
    for (let at = 0; at < (H + G) * K; at++) {
      const [first] = row(at);
      const expected = first! < 2000 ? 100 + first! - 1000 : 200 + first! - 2000;
      equal(qkvBias![at], expected);
    }
    ok(qkvBias!.subarray((H + G) * K).every((bias) => bias === 0));
  });

  it("has no biases where there are none", () => {
    const packed = packAttention(CONFIG, TENSORS, PAIRS);
    equal(packed.qkvBias, null);
    equal(packed.outputBias, null);
  });

  it("keeps the original order under the original pairs", () => {
    deepEqual(originalPairs(CONFIG), [[0, 1, 2, 3], [0, 1, 2, 3]]);
    const packed = packAttention(CONFIG, TENSORS, originalPairs(CONFIG));
    const components = Array.from({ length: K }, (_, at) => packed.qkv[at * D]! - 1000);
    deepEqual(components, [0, 4, 1, 5, 2, 6, 3, 7]);
  });
});

describe("foldValueBias()", () => {
  it("adds to the output what the values' bias gives through each query head of its group", () => {
    const own = Float32Array.of(7, 8, 9);
    const { outputBias, output, ...rest } = foldValueBias(CONFIG, { ...TENSORS, ...BIASES, outputBias: own });
    for (let at = 0; at < D; at++) {
      let expected = own[at]!;
      for (let column = 0; column < H * K; column++) {
        const group = column < 2 * K ? 0 : 1;
        expected += TENSORS.output[at * H * K + column]! * BIASES.valueBias[group * K + column % K]!;
      }
      equal(outputBias![at], Math.fround(expected));
    }
    equal(output, TENSORS.output);
    equal("valueBias" in rest, false);
  });

  it("gives the output the attention's answer for any weights that sum to one", () => {
    // One token's answer for each head is Σ p·(v + b) = Σ p·v + b.
    const folded = foldValueBias(CONFIG, { ...TENSORS, valueBias: BIASES.valueBias });
    const probabilities = [0.25, 0.25, 0.5];
    const values = probabilities.map((_, token) => vector(G * K, token));
    const answer = (bias: Float32Array | undefined, added: Float32Array | undefined) =>
      Array.from({ length: D }, (_, at) => {
        let sum = added?.[at] ?? 0;
        for (let column = 0; column < H * K; column++) {
          const from = Math.floor(column / K / (H / G)) * K + column % K;
          const mean = probabilities.reduce(
            (total, p, token) => total + p * (values[token]![from]! + (bias?.[from] ?? 0)),
            0,
          );
          sum += TENSORS.output[at * H * K + column]! * mean;
        }
        return sum;
      });
    const [before, after] = [answer(BIASES.valueBias, undefined), answer(undefined, folded.outputBias)];
    before.forEach((value, i) => ok(Math.abs(after[i]! / value - 1) < 1e-7, `${after[i]}, not ${value}`));
  });

  it("changes nothing without a bias on the values", () => {
    equal(foldValueBias(CONFIG, TENSORS).outputBias, undefined);
    equal(foldValueBias(CONFIG, { ...TENSORS, outputBias: Float32Array.of(1, 2, 3) }).outputBias!.length, 3);
  });
});

describe("packGatedMlp()", () => {
  it("orders gate rows, up rows and down columns alike", () => {
    const channels = [3, 0, 4, 2, 1];
    const tensors = { gate: numbered(F, D, 100), up: numbered(F, D, 200), down: numbered(D, F, 300) };
    const { gateUp, down } = packGatedMlp(CONFIG, tensors, channels);
    channels.forEach((channel, at) => {
      deepEqual(gateUp.subarray(at * D, (at + 1) * D), tensors.gate.subarray(channel * D, (channel + 1) * D));
      deepEqual(gateUp.subarray((F + at) * D, (F + at + 1) * D), tensors.up.subarray(channel * D, (channel + 1) * D));
      for (let i = 0; i < D; i++) equal(down[i * F + at], tensors.down[i * F + channel]);
    });
  });
});

describe("headComponents()", () => {
  it("lists a run of components of every head, head by head", () => {
    deepEqual([...headComponents(3, 8, { start: 2, end: 4 })], [2, 3, 10, 11, 18, 19]);
  });

  it("covers an axis once when runs follow each other", () => {
    const runs = [{ start: 0, end: 4 }, { start: 4, end: 6 }, { start: 6, end: 8 }];
    const all = runs.flatMap((run) => [...headComponents(3, 8, run)]).sort((a, b) => a - b);
    deepEqual(all, Array.from({ length: 24 }, (_, i) => i));
  });
});

describe("takeRows() and takeColumns()", () => {
  it("take them in the given order", () => {
    const matrix = numbered(3, 4, 0);
    deepEqual(takeRows(matrix, 4, [2, 0]), Float32Array.from([2, 2.1, 2.2, 2.3, 0, 0.1, 0.2, 0.3]));
    deepEqual(takeColumns(matrix, 4, [3, 1]), Float32Array.from([0.3, 0.1, 1.3, 1.1, 2.3, 2.1]));
  });

  it("take a part of a part as they take it at once", () => {
    const matrix = numbered(6, 6, 0);
    const [wide, narrow] = [[0, 1, 2, 3], [0, 1]];
    deepEqual(takeRows(takeRows(matrix, 6, wide), 6, narrow), takeRows(matrix, 6, narrow));
    deepEqual(takeColumns(takeColumns(matrix, 6, wide), wide.length, narrow), takeColumns(matrix, 6, narrow));
    deepEqual(takeRows(matrix, 6, [0, 1, 2, 3, 4, 5]), matrix);
  });
});
