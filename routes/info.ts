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
      levels: model.levels.map(({ pruningRate, keptParameters, bytesPerToken, perplexity }, level) => {
        const { tokenMs, chunkRows, chunkMs } = engine.predicted(level);
        return {
          pruning_rate: pruningRate,
          kept_parameters: keptParameters,
          bytes_per_token: bytesPerToken,
          perplexity,
          predicted_ms_per_token: hundredths(tokenMs),
          predicted_ms_per_prefill_chunk: [{ rows: chunkRows, ms: tenths(chunkMs) }],
        };
      }),
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
