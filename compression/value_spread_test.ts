import { describe as suite, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { TINY_LLAMA } from "../tests/support/tiny_models.ts";
import { randomNumbers } from "./random_numbers.ts";
import { spreadValues } from "./value_spread.ts";

suite("spreadValues()", () => {
  const { hiddenSize: D, numAttentionHeads: H, numKeyValueHeads: G, headDim: K } = TINY_LLAMA;
  const random = randomNumbers(5);
  const values = (length: number) => Float32Array.from({ length }, () => 2 * random() - 1);
  const chunks = [{ start: 0, end: 20, level: 1 }, { start: 20, end: 32, level: 0 }];
  const before = { qkv: values((H + 2 * G) * K * D), output: values(D * H * K) };
  // One component that carries nearly everything.
  for (let row = 0; row < D; row++) before.output[row * H * K + 2]! *= 50;
  const after = spreadValues(TINY_LLAMA, chunks, before);

  for (const { start, end } of chunks) {
    it(`keeps what the components ${start} to ${end} of every head say together`, () => {
      for (let head = 0; head < H; head++) {
        for (const [row, column] of [[0, 0], [3, 5], [D - 1, D - 2]] as const) {
          const expected = sayTogether(before, head, row, column);
          const actual = sayTogether(after, head, row, column);
          ok(Math.abs(expected - actual) < 1e-4, `head ${head}: ${expected}, ${actual}`);
        }
      }
      function sayTogether({ qkv, output }: typeof before, head: number, row: number, column: number): number {
        const valueHead = H + G + Math.floor(head / (H / G));
        let sum = 0;
        for (let k = start; k < end; k++) {
          sum += output[row * H * K + head * K + k]! * qkv[(valueHead * K + k) * D + column]!;
        }
        return sum;
      }
    });
  }

  it("spreads a component that sticks out", () => {
    const greatest = ({ output }: typeof before) => output.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
    ok(greatest(after) < greatest(before) / 3, `${greatest(after)}, ${greatest(before)}`);
  });

  it("leaves queries, keys, and its arguments as they are", () => {
    const values = (H + G) * K * D;
    ok(after.qkv.subarray(0, values).every((value, i) => value === before.qkv[i]));
    ok(Math.abs(before.output[2]!) > 0 && after.output !== before.output);
  });
});
