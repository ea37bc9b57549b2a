import { deepEqual, doesNotThrow, equal, throws } from "node:assert/strict";
import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { type Artefact, openArtefact } from "../../models/artefact.ts";
import { writeRandomArtefact } from "../../models/random_artefact.ts";
import { TINY_LLAMA } from "../../tests/support/tiny_models.ts";
import { checkMemory, memoryPlan } from "./memory_plan.ts";

const CPU = { device: "cpu", operators: null } as const;

describe("memoryPlan()", () => {
  let folder: string;
  let artefact: Artefact;

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    await writeRandomArtefact(folder, { config: TINY_LLAMA, blockSize: 32, seed: 1 });
    artefact = await openArtefact(folder);
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  it("counts what every slot can come to take at the full width", () => {
    deepEqual(memoryPlan(artefact, { maxTokens: 100, slots: 3, chosen: CPU }), {
      // Of a block of 32, which has 18 bytes in the file: codes, twice a scale in float32, and a sum.
      weights: Math.ceil(artefact.weightBytes * (16 + 2 * 4 + 4) / 18),
      kv_cache: 3 * 100 * (2 * 2 * 2 * 32) * 4, // layers, keys and values, their heads, components, bytes of each
      states: 0,
      logits: 3 * 96 * 4,
    });
  });

  it("counts half of that for the caches of our own operators, and the weights once", () => {
    const plan = (operators: string | null) =>
      memoryPlan(artefact, { maxTokens: 100, slots: 3, chosen: { device: "cpu", operators } });
    equal(plan("a library").kv_cache, plan(null).kv_cache / 2);
    equal(plan("a library").weights, artefact.weightBytes);
  });

  it("has a slot more on a CUDA device, where our operators warm up in it", () => {
    const caches = (operators: string | null) =>
      memoryPlan(artefact, { maxTokens: 64, slots: 3, chosen: { device: "cuda", operators } }).kv_cache;
    equal(caches("a library") / 4, caches(null) / 3);
  });
});

describe("checkMemory()", () => {
  const plan = { weights: 5 << 20, kv_cache: 3 << 20, states: 2 << 20, logits: 1 << 19 };
  const needed = 10.5 * 2 ** 20;

  const file = plan.weights;

  it("takes a machine that has just enough", () => doesNotThrow(() => checkMemory(plan, { file, total: needed })));

  it("refuses one that has a byte less, and says what takes how much", () =>
    throws(() => checkMemory(plan, { file, total: needed - 1 }), {
      name: "RangeError",
      message: "the weights take 5.0 MiB, caches up to 3.0 MiB, Mamba states 2.0 MiB, logits 0.5 MiB, and there are " +
        "10.5 MiB; try fewer --slots or less --max-context",
    }));

  it("says what file the weights are in where they take another number", () =>
    throws(() => checkMemory(plan, { file: 4 << 20, total: 1 }), {
      message: /^the weights take 5\.0 MiB \(packed of a file of 4\.0 MiB\), caches/,
    }));
});
