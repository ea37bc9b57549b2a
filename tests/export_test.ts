import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { type Artefact, openArtefact } from "../models/artefact.ts";
import { cachesOf, elementsOf } from "../models/caches.ts";
import { openDecoder } from "../models/decoder.ts";
import { exportOnnx } from "../models/export.ts";
import { type ModelPlan, planAtLevel } from "../models/plan.ts";
import { type RandomArtefactOptions, writeRandomArtefact } from "../models/random_artefact.ts";
import { openRuntime } from "../onnx/mod.ts";
import { TINY_BAMBA, TINY_LLAMA, TINY_MAMBA2, TINY_NEMOTRON_H } from "./support/tiny_models.ts";

const TOKENS = [5, 90, 17, 3, 44];

const MODELS: Readonly<Record<string, Pick<RandomArtefactOptions, "config" | "layers">>> = {
  llama: { config: TINY_LLAMA },
  mamba2: { config: TINY_MAMBA2 },
  "nemotron-h": { config: TINY_NEMOTRON_H, layers: [["mamba"], ["mlp"], ["attention"], ["mamba"]] },
  bamba: { config: TINY_BAMBA, layers: [["mamba", "gatedMlp"], ["attention", "gatedMlp"]] },
};

describe("exportOnnx()", () => {
  let folder: string;
  let artefact: Artefact;

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    await writeRandomArtefact(`${folder}/artefact`, { config: TINY_LLAMA, blockSize: 32, seed: 3 });
    artefact = await openArtefact(`${folder}/artefact`);
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  it("writes nothing into the artefact's folder, by whatever name that goes", async () => {
    await Deno.symlink(`${folder}/artefact`, `${folder}/another-name`);
    await Deno.mkdir(`${folder}/artefact/below`);
    for (const out of ["artefact/x.onnx", "artefact/weights.safetensors", "another-name/x.onnx", "artefact/below/x"]) {
      await rejects(exportOnnx(artefact, `${folder}/${out}`), {
        name: "RangeError",
        message: /in the artefact's folder/,
      });
    }
    await Deno.remove(`${folder}/artefact/below`);
    await openArtefact(artefact.folder);
  });

  it("writes beside it, under a name that begins like its own or with dots", async () => {
    await Deno.mkdir(`${folder}/artefact-onnx`);
    for (const out of ["artefact-onnx/x.onnx", "..x.onnx"]) {
      await exportOnnx(artefact, `${folder}/${out}`, { level: 7 });
    }
  });

  it("does not write through a link, nor over one", async () => {
    for (const name of ["linked.onnx", "linked-data.onnx.data"]) {
      await Deno.symlink(`${folder}/artefact/weights.safetensors`, `${folder}/${name}`);
      const out = `${folder}/${name.replace(".data", "")}`;
      await rejects(exportOnnx(artefact, out), { name: "RangeError", message: new RegExp(`${name} is a link`) });
    }
    await openArtefact(artefact.folder);
  });

  it("leaves what it cannot replace whole as it was, and nothing else", async () => {
    await writeRandomArtefact(`${folder}/broken`, { config: TINY_LLAMA, blockSize: 32, seed: 3 });
    const broken = await openArtefact(`${folder}/broken`);
    await Deno.truncate(`${folder}/broken/weights.safetensors`, 20_000);
    await Deno.mkdir(`${folder}/there`);
    for (const name of ["x.onnx", "x.onnx.data"]) await Deno.writeTextFile(`${folder}/there/${name}`, "earlier");
    await rejects(exportOnnx(broken, `${folder}/there/x.onnx`));
    const names = await Array.fromAsync(Deno.readDir(`${folder}/there`), ({ name }) => name);
    deepEqual(names.sort(), ["x.onnx", "x.onnx.data"]);
    for (const name of names) equal(await Deno.readTextFile(`${folder}/there/${name}`), "earlier");
  });
});

for (const [name, model] of Object.entries(MODELS)) {
  describe(`exportOnnx() of a tiny ${name}`, () => {
    let folder: string;
    let artefact: Artefact;
    const served: Float32Array[] = [];

    beforeAll(async () => {
      folder = await Deno.makeTempDir();
      await writeRandomArtefact(`${folder}/artefact`, { ...model, blockSize: 32, seed: 3 });
      artefact = await openArtefact(`${folder}/artefact`);
      using decoder = await openDecoder(openRuntime(), {
        plan: artefact.plan,
        weights: artefact.weights(),
        folder: artefact.folder,
        lanes: 2,
        maxTokens: 32,
        maxRows: 32,
        threads: 1,
      });
      for (let level = 0; level < artefact.levels.length; level++) {
        const sequence = decoder.openSequence(level);
        served.push((await decoder.step([{ sequence, tokens: TOKENS, logits: "all" }]))[0]!.slice());
        sequence.close();
      }
    });
    afterAll(() => Deno.remove(folder, { recursive: true }));

    it("writes an elastic file that a plain session runs at every level as the service does", async () => {
      await exportOnnx(artefact, `${folder}/elastic.onnx`);
      for (let level = 0; level < artefact.levels.length; level++) {
        same(await run(`${folder}/elastic.onnx`, artefact.plan, level), served[level]!);
      }
    });

    it("writes one level alone, with less data", async () => {
      await exportOnnx(artefact, `${folder}/narrow.onnx`, { level: 7 });
      same(await run(`${folder}/narrow.onnx`, planAtLevel(artefact.plan, 7), 0), served[7]!);
      const bytes = async (name: string) => (await Deno.stat(`${folder}/${name}.onnx.data`)).size;
      ok(await bytes("narrow") < await bytes("elastic"));
    });

    /** One run over an empty cache, with the package's own session. */
    async function run(path: string, plan: ModelPlan, level: number): Promise<Float32Array> {
      const session = await InferenceSession.create(path);
      const length = TOKENS.length;
      const int64 = (values: number[]) => new Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
      const feeds: Record<string, Tensor> = {
        tokens: int64(TOKENS),
        positions: int64(TOKENS.map((_, i) => i)),
        lane_rows: int64([length]),
        lane_levels: int64([level]),
        lane_lengths: new Tensor("int32", Int32Array.of(length), [1]),
        logit_rows: int64(TOKENS.map((_, i) => i)),
      };
      for (const cache of cachesOf(plan)) {
        const shape = cache.shape(level, length);
        feeds[cache.names(0).past] = new Tensor("float32", new Float32Array(elementsOf(shape)), shape);
      }
      const { logits } = await session.run(feeds, ["logits"]);
      await session.release();
      return logits!.data as Float32Array;
    }
  });
}

/** Both are float32 over the same codes; only the order of sums may differ. */
function same(actual: Float32Array, expected: Float32Array): void {
  equal(actual.length, expected.length);
  const scale = Math.max(...expected.map(Math.abs));
  const error = Math.max(...expected.map((value, i) => Math.abs(value - actual[i]!))) / scale;
  ok(error < 1e-5, `relative error ${error}`);
}
