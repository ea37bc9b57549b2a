import { tells } from "./operation.ts";
import { tenths } from "./request_record.ts";
import type { Route } from "./route.ts";

export const info: Route = {
  method: "GET",
  path: "/info",
  operation: tells("The model at each rate, what it costs now, and what runs it"),
  handler: ({ engine, model, tokenizer, build }) => (c) =>
    c.json({
      model: {
        name: model.name,
        family: model.family,
        digest: model.digest,
        vocab_size: model.vocabSize,
        context_tokens: engine.maxTokens,
        tokenizer: tokenizer !== null,
      },
      levels: model.levels.map((variant, level) => {
        const { tokenMs, chunkRows, chunkMs } = engine.predicted(level);
        return {
          pruning_rate: variant.pruningRate,
          kept_parameters: variant.keptParameters,
          bytes_per_token: variant.bytesPerToken,
          cache_bytes_per_token: variant.cacheBytesPerToken,
          state_bytes_per_sequence: variant.stateBytesPerSequence,
          perplexity: variant.perplexity,
          predicted_ms_per_token: hundredths(tokenMs),
          predicted_ms_per_prefill_chunk: [{ rows: chunkRows, ms: tenths(chunkMs) }],
        };
      }),
      version: build.version,
      engine: build.engine,
      kernels: build.kernels,
      device: { kind: build.device.device, name: build.device.name, reason: build.device.reason },
      threads: build.threads,
      slots: engine.slots,
      memory_bytes: build.memory,
    }),
};

function hundredths(ms: number): number {
  return Math.round(ms * 100) / 100;
}
