/** Requests over time: a queue, steps in batches, rates by budget. */
export { Engine, type EngineOptions } from "./engine.ts";
export { BudgetError, QueueFullError, StepError, StoppingError } from "./errors.ts";
export type { FinishReason, GenerationEnd, GenerationRequest, GenerationStart, Timings } from "./generation.ts";
export { type LevelCosts, type LevelTable, measureLevels } from "./level_table.ts";
export { createMetrics, type Metrics } from "./metrics.ts";
export type { Budget, RateChoice } from "./rate_choice.ts";
export {
  type Logprobs,
  PLAIN_SAMPLING,
  Sampler,
  SamplerScratch,
  type SamplingOptions,
  type TokenLogprob,
} from "./sampler.ts";
export {
  ContentionSensor,
  type ContentionSensorOptions,
  type DeviceSensor,
  findDeviceSensors,
  OTHER_CPU_SHARE,
  type PrometheusQuestion,
  queryPrometheus,
  registerDeviceMetrics,
  registerProcessMetrics,
} from "./sensors/mod.ts";
export type { StepRunner } from "./step_runner.ts";
export {
  generateText,
  type TextEvent,
  type TextRequest,
  type TextToken,
  type TextTokenizer,
} from "./text_generation.ts";
