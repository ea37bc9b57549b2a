/** onnxruntime-genai from PyPI, on a random model of its own model builder. */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { KNOWN_SHAPES, type ShapeName } from "../../models/known_shapes.ts";
import { exists } from "./exists.ts";
import { type Participant, PrintedSpeeds, run } from "./workload.ts";

/** The builder loads checkpoints with PyTorch, whose packages for Linux bring CUDA: 5.8 GB that only it needs. */
const PACKAGES = [
  "onnxruntime-genai==0.18.0",
  "onnxruntime==1.32.0",
  "onnx==1.23.2",
  "onnx-ir==1.1.0",
  "torch==2.15.0",
  "transformers==5.24.0",
];

function python(folder: string): string {
  return join(folder, "python", "bin", "python");
}

function modelFolder(folder: string, shape: ShapeName): string {
  return join(folder, shape, "onnxruntime-genai");
}

function script(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

/** Installs the packages and makes the model, each unless it is there. Needs Python 3.11 with venv. */
export async function prepareOnnxruntimeGenai(folder: string, shape: ShapeName): Promise<void> {
  if (!await exists(python(folder))) await run("python3", ["-m", "venv", join(folder, "python")]);
  await run(python(folder), ["-m", "pip", "install", "--quiet", ...PACKAGES]);
  const model = modelFolder(folder, shape);
  // The builder writes this file last.
  if (await exists(join(model, "genai_config.json"))) return;
  await run(python(folder), [script("genai_model.py"), JSON.stringify(huggingFaceConfig(shape)), model], {
    HF_HUB_OFFLINE: "1",
  });
}

/** The configuration under Hugging Face's names, as its library takes it. */
function huggingFaceConfig(shape: ShapeName): Record<string, unknown> {
  const config = KNOWN_SHAPES[shape];
  const { theta, scaling } = config.rope;
  return {
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    rms_norm_eps: config.rmsNormEps,
    max_position_embeddings: config.maxPositionEmbeddings,
    rope_parameters: scaling === null ? { rope_type: "default", rope_theta: theta } : {
      rope_type: scaling.kind,
      rope_theta: theta,
      factor: scaling.factor,
      low_freq_factor: scaling.lowFreqFactor,
      high_freq_factor: scaling.highFreqFactor,
      original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
    },
    tie_word_embeddings: config.tieWordEmbeddings,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenIds[0],
  };
}

/** onnxruntime-genai with the model of a shape. */
export function onnxruntimeGenai(folder: string, shape: ShapeName): Participant {
  const { vocabSize } = KNOWN_SHAPES[shape];
  return {
    name: "onnxruntime-genai",
    async measure(workload) {
      const printed = await run(python(folder), [
        script("genai_bench.py"),
        modelFolder(folder, shape),
        JSON.stringify({ ...workload, vocabSize }),
      ]);
      return PrintedSpeeds.parse(JSON.parse(printed));
    },
  };
}
