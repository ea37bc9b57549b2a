import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { initialWeights } from "./initialization.ts";
import { randomFor } from "./random.ts";
import { TINY, tinyLlama } from "./testing/tiny_models.ts";

describe("ParameterLayout", () => {
  const { layout, plan } = tinyLlama();
  const places = [...layout.places.values()];

  it("has every parameter of the model once, in aligned places that do not overlap", () => {
    const { hiddenSize: D, intermediateSize: F, vocabSize: V } = TINY;
    const perLayer = 128 * D + D * 64 + 2 * F * D + D * F + 2 * D; // qkv of 8 heads, output, gate and up, down, norms
    equal(places.reduce((sum, { size }) => sum + size, 0), V * D + 2 * perLayer + D);
    let end = 0;
    for (const { start, size } of places) {
      equal(start % 16, 0);
      ok(start >= end);
      end = start + size;
    }
    ok(end <= layout.length);
  });

  it("has what decays first: everything but norms", () => {
    for (const { name, start, shape } of places) {
      equal(start < layout.decayEnd, !name.endsWith("norm"), name);
      equal(shape.length === 2, !name.endsWith("norm"), name);
    }
  });

  it("gives views of the flat array, and refuses names that it does not know", () => {
    const flat = new Float32Array(layout.length);
    layout.view(flat, "final_norm").fill(3);
    equal(flat.reduce((a, b) => a + b), 3 * TINY.hiddenSize);
    throws(() => layout.view(flat, "last_norm"), { name: "RangeError", message: /"last_norm"/ });
  });

  it("starts with norms of one, and smaller matrices where the residual stream is written", () => {
    const weights = initialWeights(plan, layout, randomFor(1, "weights"));
    const deviation = (name: string) => {
      const view = layout.view(weights, name);
      return Math.sqrt(view.reduce((sum, value) => sum + value * value, 0) / view.length);
    };
    deepEqual(new Set(layout.view(weights, "layers.1.mlp.norm")), new Set([1]));
    // Of 1,280 numbers and more, the deviation is found within 2 %: five times that is certain.
    ok(Math.abs(deviation("embedding.weight") / 0.02 - 1) < 0.1);
    ok(Math.abs(deviation("layers.0.mlp.down.0.weight") / 0.01 - 1) < 0.1); // four blocks write: half
  });
});
