import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { GenerationEnd, GenerationRequest } from "./generation.ts";
import { RATE_REASONS } from "./rate_choice.ts";
import { REFUSAL_REASONS, type RefusalReason } from "./refusal_reason.ts";

/** Buckets of vLLM's series of the same names, in seconds. */
const FIRST_TOKEN = [
  ...[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80],
  ...[160, 640, 2560],
];
const BETWEEN_TOKENS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const REQUEST = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
const TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];
/** A decode step of the smallest model that is worth serving takes about a millisecond. */
const STEP = [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8];
/** What happens between two steps, or beside one. */
const BRIEF = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
const RATIO = [0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10];
const SLACK = [-10, -5, -2, -1, -0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];

/** All series of the service, without the prefix `espalier_` of their names. `rate` is a prepared pruning rate. */
export type Metrics = ReturnType<typeof createMetrics>;

/** Registers all series. @throws {Error} If the registry has them already. */
// deno-lint-ignore explicit-module-boundary-types explicit-function-return-type -- the table below is its type
export function createMetrics(registry: Registry) {
  const registers = [registry];
  const histogram = <L extends string>(name: string, help: string, buckets: number[], labelNames: L[] = []) =>
    new Histogram({ name: `espalier_${name}`, help, buckets, labelNames, registers });
  const gauge = <L extends string>(name: string, help: string, labelNames: L[] = []) =>
    new Gauge({ name: `espalier_${name}`, help, labelNames, registers });
  const counter = <L extends string>(name: string, help: string, labelNames: L[] = []) =>
    new Counter({ name: `espalier_${name}`, help, labelNames, registers });

  const metrics = {
    timeToFirstToken: histogram("time_to_first_token_seconds", "Arrival to first token", FIRST_TOKEN),
    interTokenLatency: histogram("inter_token_latency_seconds", "Between two tokens of a request", BETWEEN_TOKENS),
    requestLatency: histogram("e2e_request_latency_seconds", "Arrival to last token", REQUEST),
    requestQueueTime: histogram("request_queue_time_seconds", "Arrival to start", REQUEST),
    requestPrefillTime: histogram("request_prefill_time_seconds", "Start to first token", REQUEST),
    requestDecodeTime: histogram("request_decode_time_seconds", "First to last token", REQUEST),
    requestPromptTokens: histogram("request_prompt_tokens", "Tokens of prompts", TOKENS),
    requestGenerationTokens: histogram("request_generation_tokens", "Tokens of answers", TOKENS),
    stepSeconds: histogram(
      "step_seconds",
      "Time of a step. Phase prefill: it has prompt rows. Rate: the smallest in it",
      STEP,
      ["phase", "rate"],
    ),
    betweenSteps: histogram(
      "between_steps_seconds",
      "From the end of a step, or the arrival of work after a pause, to the start of the next step",
      BRIEF,
    ),
    admissionTime: histogram("admission_seconds", "Time to let a request in or refuse it", BRIEF),
    predictionErrorRatio: histogram(
      "prediction_error_ratio",
      "Time from start to last token, divided by what was predicted at the start for as many tokens",
      RATIO,
    ),
    generationLength: histogram(
      "generation_length_tokens",
      "Tokens of answers. Reason: stop if they ended by themselves, or what cut them off: length, or budget",
      TOKENS,
      ["reason"],
    ),
    budgetSlack: histogram("budget_slack_seconds", "Latency budget less the time taken; negative if missed", SLACK),

    requestsRunning: gauge("requests_running", "Requests that have a slot"),
    requestsWaiting: gauge("requests_waiting", "Requests that wait for a slot"),
    waitingPromptTokens: gauge("waiting_prompt_tokens", "Prompt tokens of requests that wait for a slot"),
    kvCacheUsageRatio: gauge("kv_cache_usage_ratio", "Tokens in caches, of all that the slots can hold"),
    slots: gauge("slots", "Requests that can run at once"),
    effectivePruningRate: gauge("effective_pruning_rate", "Mean rate of the running requests; 0 if there are none"),
    modelBytes: gauge("model_bytes", "Memory by use", ["kind"]),
    buildInfo: gauge("build_info", "Always 1; the labels say what runs", ["version", "engine", "kernels"]),

    requestsArrived: counter("requests_arrived_total", "Requests that asked for a place, refused ones too"),
    stepPredictedSeconds: counter(
      "step_predicted_seconds_total",
      "Time that steps take by the table of this machine and by what other work takes; beside step_seconds_sum",
      ["phase", "rate"],
    ),
    requests: counter(
      "requests_total",
      "Requests for answers by how they ended and what HTTP said; others only if they were refused",
      ["outcome", "code"],
    ),
    sloRequests: counter(
      "slo_requests_total",
      "Requests with a budget, by the largest rate they ran at: met or missed; missed too if a step failed",
      ["rate", "outcome"],
    ),
    tokens: counter("tokens_total", "Tokens that steps took (prefill) and gave (decode)", ["phase", "rate"]),
    rateSelected: counter("rate_selected_total", "Requests by their rate and its reason", ["rate", "reason"]),
    sequencesNarrowed: counter("sequences_narrowed_total", "Running sequences made narrower, by their new rate", [
      "rate",
    ]),
    admissionRejected: counter(
      "admission_rejected_total",
      "Requests refused: at the door, or (not_ready) while they waited",
      ["reason"],
    ),
  };
  for (const reason of REFUSAL_REASONS) metrics.admissionRejected.inc({ reason }, 0);
  // A stream that fails has said 200 before.
  for (const code of ["200", "500"]) metrics.requests.inc({ outcome: "error", code }, 0);
  return metrics;
}

/** Counts a request that is refused. */
export function countRefusal({ admissionRejected }: Pick<Metrics, "admissionRejected">, reason: RefusalReason): void {
  admissionRejected.inc({ reason });
}

/** Counts what a request has come to. @param rate The largest that it ran at. */
export function countEnd(metrics: Metrics, request: GenerationRequest, end: GenerationEnd, rate: string): void {
  const { timings, completionTokens, choice, finishReason, budgetMet } = end;
  metrics.requestLatency.observe(timings.totalMs / 1000);
  metrics.requestQueueTime.observe(timings.queueMs / 1000);
  metrics.requestPromptTokens.observe(request.promptTokens.length);
  metrics.requestGenerationTokens.observe(completionTokens);
  if (completionTokens > 0) {
    metrics.requestPrefillTime.observe(timings.prefillMs / 1000);
    metrics.requestDecodeTime.observe(timings.decodeMs / 1000);
    metrics.generationLength.observe({ reason: finishReason }, completionTokens);
    const predictedMs = choice.predictedTtftMs - timings.queueMs + (completionTokens - 1) * choice.predictedTpotMs;
    metrics.predictionErrorRatio.observe((timings.prefillMs + timings.decodeMs) / predictedMs);
  }
  if (budgetMet !== null) {
    metrics.sloRequests.inc({ rate, outcome: budgetMet ? "met" : "missed" });
  }
  if (request.budget.latencyMs !== null) {
    metrics.budgetSlack.observe((request.budget.latencyMs - timings.totalMs) / 1000);
  }
}

/**
 * Sets the counters that have a rate among their labels to 0: `rate()` and `increase()` do not see the first count of a
 * series that was absent before.
 */
export function startRates(metrics: Metrics, pruningRates: readonly number[]): void {
  for (const rate of pruningRates.map(String)) {
    for (const outcome of ["met", "missed"]) metrics.sloRequests.inc({ rate, outcome }, 0);
    for (const phase of ["prefill", "decode"]) metrics.tokens.inc({ phase, rate }, 0);
    for (const reason of RATE_REASONS) metrics.rateSelected.inc({ rate, reason }, 0);
    metrics.sequencesNarrowed.inc({ rate }, 0);
  }
}
