import { Registry } from "prom-client";
import { Engine, type EngineOptions } from "../engine.ts";
import type { GenerationEvent, GenerationRequest } from "../generation.ts";
import { NO_TARGETS } from "../limits.ts";
import { createMetrics, type Metrics } from "../metrics.ts";
import { createPolicy } from "../policies/mod.ts";
import { PLAIN_SAMPLING, type SamplingOptions } from "../sampler.ts";
import type { StepTable } from "../step_costs.ts";
import { ToyRunner } from "./toy_runner.ts";

export const GREEDY: SamplingOptions = { ...PLAIN_SAMPLING, temperature: 0, seed: 0 };

/** At level l a step of one or two rows takes 10 − 2l ms, and a chunk of 8 rows twice as long. */
export const TOY_TABLE: StepTable = {
  rows: [1, 2, 8],
  stepMs: [0, 1, 2].map((level) => [10 - 2 * level, 10 - 2 * level, 20 - 4 * level]),
  decodeContextMs: [0, 0, 0],
  prefillContextMs: [0, 0, 0],
};

export const TOY_RATES = [0, 0.15, 0.35];

/** An engine over a toy model with the rates 0, 0.15 and 0.35, on a clock that stands until it is set. */
export function toyEngine(
  given: Partial<EngineOptions> = {},
): {
  engine: Engine;
  options: EngineOptions;
  registry: Registry;
  metrics: Metrics;
  clock: { ms: number };
  /** Values of the series without labels. */
  gauges: () => Promise<Record<string, number>>;
} {
  const registry = new Registry();
  const metrics = createMetrics(registry);
  const clock = { ms: 1000 };
  const options: EngineOptions = {
    runner: new ToyRunner(),
    pruningRates: TOY_RATES,
    table: TOY_TABLE,
    policy: createPolicy("predictive", { pruningRates: TOY_RATES, shed: false }),
    targets: NO_TARGETS,
    prefillChunk: 8,
    maxWaiting: 4,
    maxWaitingTokens: 1000,
    metrics,
    registry,
    now: () => clock.ms,
    ...given,
  };
  const engine = new Engine(options);
  const gauges = async () => {
    const all = await registry.getMetricsAsJSON();
    return Object.fromEntries(
      all.flatMap(({ name, values }) => values.length === 1 ? [[name.replace("espalier_", ""), values[0]!.value]] : []),
    );
  };
  return { engine, options, registry, metrics, clock, gauges };
}

export function toyRequest(request: Partial<GenerationRequest> = {}): GenerationRequest {
  return {
    promptTokens: [1, 2, 3],
    maxNewTokens: 4,
    eosTokenIds: [0],
    sampling: GREEDY,
    pinnedLevel: null,
    floorLevel: 2,
    budget: { latencyMs: null, ttftMs: null, tpotMs: null },
    onMiss: "degrade",
    arrivedMs: 1000,
    ...request,
  };
}

/** All events of a request by kind. */
export async function collect(events: AsyncIterable<GenerationEvent>): Promise<
  { tokens: number[]; all: GenerationEvent[]; end: GenerationEvent | undefined }
> {
  const all = await Array.fromAsync(events);
  return {
    all,
    tokens: all.flatMap((event) => event.kind === "token" ? [event.token] : []),
    end: all.findLast(({ kind }) => kind === "end"),
  };
}

/** A gate that steps wait at. */
export class Gate {
  #open = Promise.withResolvers<void>();
  #reached = Promise.withResolvers<void>();

  /** To be waited for in a step. */
  pass(): Promise<void> {
    this.#reached.resolve();
    return this.#open.promise;
  }

  /** Settles when a step waits. */
  get reached(): Promise<void> {
    return this.#reached.promise;
  }

  /** Lets the step go that waits; the next one waits again. */
  open(): void {
    const { resolve } = this.#open;
    this.#open = Promise.withResolvers();
    this.#reached = Promise.withResolvers();
    resolve();
  }
}
