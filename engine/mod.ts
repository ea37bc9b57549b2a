/** Requests over time: a queue, steps in batches, rates by budget. */
export { Engine, type EngineOptions } from "./engine.ts";
export { type EngineState, NOT_READY } from "./engine_state.ts";
export { BudgetError, NotReadyError, QueueFullError, StepError, StoppingError } from "./errors.ts";
export type { FinishReason, GenerationEnd, GenerationRequest, GenerationStart, Timings } from "./generation.ts";
export type { Targets } from "./limits.ts";
export type { LearnedTimes } from "./load_sensor.ts";
export { measureSteps } from "./measure_steps.ts";
export { createMetrics, type Metrics } from "./metrics.ts";
export { createPolicy, isPolicyName, type Policy, POLICY_NAMES } from "./policies/mod.ts";
export type { Budget, RateChoice, RateReason } from "./rate_choice.ts";
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
export type { StepTable } from "./step_costs.ts";
export { keepStepTable, keptStepTable, type StepTableKey } from "./step_table_cache.ts";
export { scaledTable, TableWatch } from "./table_watch.ts";
export type { StepRunner } from "./step_runner.ts";
export {
  generateText,
  type TextEvent,
  type TextRequest,
  type TextToken,
  type TextTokenizer,
} from "./text_generation.ts";
