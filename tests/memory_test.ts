import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { equal, ok } from "node:assert/strict";
import { GarbageCollector } from "../commands/replay/garbage_collector.ts";
import { ServiceProcess } from "../commands/replay/service_process.ts";
import { openKernels } from "../kernels/native_library.ts";
import type { ModelConfig } from "../models/description.ts";
import { writeRandomArtefact } from "../models/random_artefact.ts";
import { PRUNING_RATES } from "../models/widths.ts";
import { TINY_LLAMA } from "./support/tiny_models.ts";

/** 106 MB of weights, many times what the memory of Deno and ONNX Runtime differs by from start to start. */
const LARGE: ModelConfig = {
  ...TINY_LLAMA,
  hiddenSize: 1024,
  intermediateSize: 4096,
  numHiddenLayers: 12,
  numAttentionHeads: 16,
  numKeyValueHeads: 8,
  headDim: 64,
};

// Operators are compiled before a service starts, and not by it.
await openKernels();

describe("The service's memory", () => {
  let folder: string;

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    await writeRandomArtefact(`${folder}/elastic`, { config: LARGE, blockSize: 32, seed: 1 });
    await writeRandomArtefact(`${folder}/plain`, { config: LARGE, blockSize: 32, seed: 1, pruningRates: [0] });
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  const start = (name: string) =>
    ServiceProcess.start([`--model=${folder}/${name}`, "--slots=1", "--max-context=64", "--prefill-chunk=16"], {
      debugged: true,
    });

  /** Resident bytes without garbage, after an answer at each of `rates`. */
  async function bytesAfter({ client, debuggerUrl }: ServiceProcess, rates: readonly number[]): Promise<number> {
    for (const pruning_rate of rates) {
      const { status } = await client.generate({
        ...{ prompt_tokens: [40, 9, 77, 3, 3, 51], max_new_tokens: 4, temperature: 0, pruning_rate },
      });
      equal(status, 200);
    }
    using garbage = await GarbageCollector.connect(debuggerUrl!);
    await garbage.collect();
    const metrics = await (await fetch(`${client.url}/metrics`)).text();
    return Number(/^process_resident_memory_bytes (.*)$/m.exec(metrics)![1]);
  }

  it("is that of one rate for all of them, within a quarter of the weights", async () => {
    const { size } = await Deno.stat(`${folder}/elastic/weights.safetensors`);
    const only0 = PRUNING_RATES.map(() => 0);
    await using elastic = await start("elastic");
    const one = await bytesAfter(elastic, only0);
    const all = await bytesAfter(elastic, PRUNING_RATES);
    ok(all - one < size / 4, `${all} bytes after all rates, ${one} after rate 0; the weights have ${size}`);

    // It has measured all rates when it starts; a model that has but one says what they add.
    await using plain = await start("plain");
    const whole = await bytesAfter(plain, only0);
    ok(all - whole < size / 4, `${all} bytes with eight rates, ${whole} with one; the weights have ${size}`);
  });
});
