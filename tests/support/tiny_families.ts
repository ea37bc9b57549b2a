import type { ModelConfig } from "../../models/description.ts";
import { writeRandomCheckpoint, writeTinyCheckpoint } from "./tiny_checkpoint.ts";
import { TINY_LLAMA, TINY_QWEN } from "./tiny_models.ts";
import { TINY_BAMBA, TINY_MAMBA2, TINY_NEMOTRON_H } from "./tiny_state_space.ts";

/** Writes a random checkpoint; see `writeRandomCheckpoint`. */
type WriteCheckpoint = (folder: string, seed: number, options?: { onGrid: boolean }) => Promise<void>;

const transformer = (config: ModelConfig, architecture: string): WriteCheckpoint => (folder, seed, options) =>
  writeTinyCheckpoint(folder, config, seed, { architecture, ...options });
const stateSpace = (raw: object): WriteCheckpoint => (folder, seed, options) =>
  writeRandomCheckpoint(folder, raw, seed, options);

/** One of every family whose blocks differ. */
export const TINY_FAMILIES = {
  llama: transformer(TINY_LLAMA, "LlamaForCausalLM"),
  qwen2: transformer(TINY_QWEN, "Qwen2ForCausalLM"),
  mamba2: stateSpace(TINY_MAMBA2),
  nemotron_h: stateSpace(TINY_NEMOTRON_H),
  bamba: stateSpace(TINY_BAMBA),
};
