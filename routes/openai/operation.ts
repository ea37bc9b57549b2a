import { generates, type Json } from "../operation.ts";

interface OpenAiGeneration {
  readonly summary: string;
  /** Name of the body's schema. */
  readonly body: string;
  /** What OpenAI calls the answer. */
  readonly object: string;
}

/** The operation of a route that generates as OpenAI has it. Rates and budget come in headers too. */
export function generatesOpenAi({ summary, body, object }: OpenAiGeneration): Json {
  return generates({
    summary,
    parameters: [
      header("X-Latency-Budget-Ms", "latency_budget_ms"),
      header("X-Max-Pruning-Rate", "max_pruning_rate"),
      header("X-Pruning-Rate", "pruning_rate"),
    ],
    body,
    answer: {
      description: `OpenAI's ${object}, and in the object espalier what /generate says of rate, budget and times. ` +
        "With stream: data events up to [DONE]",
      schema: { type: "object" },
    },
  });
}

function header(name: string, field: string): Json {
  return { name, in: "header", schema: { type: "number" }, description: `The same as the field ${field}` };
}
