import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openArtefact } from "../../models/artefact.ts";
import { decoderGraph } from "../../models/graph/decoder.ts";
import { deviceKinds } from "./device_kinds.ts";

const artefact = await openArtefact(fileURLToPath(new URL("../../artifacts/demo", import.meta.url)));

describe("deviceKinds()", () => {
  const { nodes } = decoderGraph(artefact.plan, artefact.weights(), { lanes: 1, operators: "cuda", capacity: 64 });
  const { kindOf, bytesOf } = deviceKinds(artefact, { lanes: 1, context: 64 });

  it("tells products apart by their matrix", () => {
    const kinds = new Set(nodes.map(({ op }, index) => kindOf(`${op}_${index}`, op)));
    const products = [...kinds].filter((kind) => kind.startsWith("PrefixMatMul")).sort();
    deepEqual(products, [
      ...["PrefixMatMul down", "PrefixMatMul embedding", "PrefixMatMul gate_up", "PrefixMatMul head_rotation"],
      ...["PrefixMatMul output", "PrefixMatMul qkv"],
    ]);
  });

  it("knows the bytes that a token reads", () => {
    const kinds = [...new Set(nodes.map(({ op }, index) => kindOf(`${op}_${index}`, op)))];
    const products = kinds.filter((kind) => kind.startsWith("PrefixMatMul"));
    const bytes = products.reduce((sum, kind) => sum + bytesOf("decode of 1", kind)!, 0);
    // A token also reads its row of the embedding, and the final norm is the head's.
    const row = artefact.plan.config.hiddenSize * (1 / 2 + 2 / artefact.blockSize);
    equal(Math.abs(bytes + row - artefact.levels[0]!.bytesPerToken) < 0.01 * bytes, true);
    const { numKeyValueHeads, headDim, numHiddenLayers } = artefact.plan.config;
    equal(bytesOf("decode of 3", "CachedAttention"), 3 * 4 * numKeyValueHeads * headDim * numHiddenLayers * 64);
    equal(bytesOf("prefill of 64", "CachedAttention"), null);
  });
});
