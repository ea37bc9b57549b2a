import type { Handler } from "hono";
import { tenths } from "./request_record.ts";
import type { Services } from "./services.ts";

/** `GET /info`: the model at each rate, and what runs it. */
export function info({ engine, model, tokenizer, build }: Services): Handler {
  return (c) =>
    c.json({
      model: {
        name: model.name,
        family: model.family,
        digest: model.digest,
        vocab_size: model.vocabSize,
        context_tokens: engine.maxTokens,
        tokenizer: tokenizer !== null,
      },
      levels: model.levels.map((model, level) => ({
        pruning_rate: model.pruningRate,
        kept_parameters: model.keptParameters,
        bytes_per_token: model.bytesPerToken,
        cache_bytes_per_token: model.cacheBytesPerToken,
        state_bytes_per_sequence: model.stateBytesPerSequence,
        perplexity: model.perplexity,
        predicted_ms_per_token: hundredths(engine.table[level]!.stepMs),
        predicted_ms_per_prefill_chunk: engine.table[level]!.chunks.map(({ rows, ms }) => ({ rows, ms: tenths(ms) })),
      })),
      version: build.version,
      engine: build.engine,
      kernels: build.kernels,
      threads: build.threads,
      slots: engine.slots,
      memory_bytes: build.memory,
    });
}

function hundredths(ms: number): number {
  return Math.round(ms * 100) / 100;
}
