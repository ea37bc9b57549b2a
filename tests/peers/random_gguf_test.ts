import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok } from "node:assert/strict";
import { join } from "node:path";
import { ggufConfig } from "../../models/gguf_config.ts";
import { openGgufFile, readGgufTensor } from "../../models/gguf_file.ts";
import { ropeScalingFromDivisors } from "../../models/gguf_rope.ts";
import { KNOWN_SHAPES } from "../../models/known_shapes.ts";
import { writeRandomGguf } from "./random_gguf.ts";

const LLAMA = KNOWN_SHAPES["llama-3.2-1b"];
const SMALL = { ...LLAMA, numHiddenLayers: 2, hiddenSize: 64, intermediateSize: 96, vocabSize: 33 };

describe("writeRandomGguf()", () => {
  it("writes sizes, a scaled rotation and matrices that our own reader reads", async () => {
    const folder = await Deno.makeTempDir();
    try {
      const path = join(folder, "random.gguf");
      await writeRandomGguf(path, SMALL, 1);
      const gguf = await openGgufFile(path);
      try {
        const config = ggufConfig(gguf);
        equal(config.hidden_size, 64);
        equal(config.intermediate_size, 96);
        equal(config.num_hidden_layers, 2);
        equal(config.num_attention_heads, 32);
        equal(config.num_key_value_heads, 8);
        equal(config.head_dim, 64);
        equal(config.vocab_size, 33);
        equal(config.tie_word_embeddings, true);
        const scaling = ropeScalingFromDivisors(
          await readGgufTensor(gguf, gguf.tensors.get("rope_freqs.weight")!),
          LLAMA.rope.theta,
        );
        equal(scaling?.["factor"], LLAMA.rope.scaling.factor);
        deepEqual(gguf.tensors.get("blk.1.ffn_down.weight")!.shape, [64, 96]);
        equal(gguf.tensors.size, 3 + 2 * 9);
        for (const [name, tensor] of gguf.tensors) {
          if (tensor.quantization.name !== "Q4_0") continue;
          const values = await readGgufTensor(gguf, tensor);
          const rms = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
          const wanted = 0.7 / Math.sqrt(tensor.shape[1]!);
          ok(Math.abs(rms / wanted - 1) < 0.15, `${name}: ${rms} in the root mean square, not near ${wanted}`);
        }
      } finally {
        gguf.file.close();
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});
