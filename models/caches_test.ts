import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import { TINY_LLAMA } from "../tests/support/tiny_models.ts";
import { arrayPlaces, cachesOf, elementsOf } from "./caches.ts";
import { planModel } from "./plan.ts";

const attention = {
  kind: "attention" as const,
  widths: [TINY_LLAMA.headDim, TINY_LLAMA.headDim / 2],
  queryKeyBias: false,
  outputBias: false,
};

describe("arrayPlaces()", () => {
  it("gives every cache the room of the widest level, on lines of the processor's cache", () => {
    const caches = cachesOf(planModel(TINY_LLAMA, [[attention], [attention]]));
    const places = arrayPlaces(caches, 5);
    equal(places.length, caches.length + 1);
    ok(places.every((place) => place % 16 === 0));
    caches.forEach(({ shape }, index) => {
      const room = places[index + 1]! - places[index]!;
      const floats = elementsOf(shape(0, 5)) / 2; // keys and values are halves
      ok(room >= floats && room < floats + 16);
    });
    deepEqual(caches.map(({ block }) => block), ["layers.0.attention", "layers.1.attention"].flatMap((b) => [b, b]));
  });
});
