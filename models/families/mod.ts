import type { ModelDescription } from "../description.ts";
import { ArceeConfig } from "./arcee.ts";
import { BambaConfig } from "./bamba.ts";
import { LlamaConfig } from "./llama.ts";
import { Mamba2Config } from "./mamba2.ts";
import { MistralConfig } from "./mistral.ts";
import { NemotronHConfig } from "./nemotron_h.ts";
import { Qwen2Config } from "./qwen2.ts";
import { z } from "zod";

/** The schema that turns a configuration into a description, for each architecture that we can run. */
const FAMILIES: Readonly<Record<string, z.ZodType<ModelDescription>>> = {
  LlamaForCausalLM: LlamaConfig,
  Qwen2ForCausalLM: Qwen2Config,
  MistralForCausalLM: MistralConfig,
  ArceeForCausalLM: ArceeConfig,
  Mamba2ForCausalLM: Mamba2Config,
  NemotronHForCausalLM: NemotronHConfig,
  BambaForCausalLM: BambaConfig,
};

/** As `config.json` names them under `architectures`. */
export const SUPPORTED_ARCHITECTURES: readonly string[] = Object.keys(FAMILIES);

const Architecture = z.looseObject({ architectures: z.tuple([z.string()]) });

/**
 * Makes a model's description from the configuration of its checkpoint.
 *
 * @param rawConfig `config.json`, parsed. Fields that we do not know are ignored.
 * @throws {RangeError} If the architecture is not supported, or a field holds what we cannot run; the message names
 * every such field.
 */
export function describe(rawConfig: unknown): ModelDescription {
  const supported = SUPPORTED_ARCHITECTURES.join(", ");
  const named = Architecture.safeParse(rawConfig);
  if (!named.success) {
    throw new RangeError(`Cannot tell the model's architecture: "architectures" must name one of ${supported}`);
  }
  const [architecture] = named.data.architectures;
  if (!Object.hasOwn(FAMILIES, architecture)) {
    throw new RangeError(`The architecture ${architecture} is not supported; supported are ${supported}`);
  }
  const description = FAMILIES[architecture]!.safeParse(rawConfig);
  if (!description.success) {
    const problems = description.error.issues.map(({ path, message }) =>
      `${path.join(".")}: ${message}; found ${show(valueAt(rawConfig, path))}`
    );
    throw new RangeError(`Cannot use this ${architecture} configuration:\n  ${problems.join("\n  ")}`);
  }
  return description.data;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((inner, key) => (inner as Record<PropertyKey, unknown> | undefined)?.[key], value);
}

function show(value: unknown): string {
  if (value === undefined) return "nothing";
  return typeof value === "number" ? String(value) : JSON.stringify(value).slice(0, 60);
}
