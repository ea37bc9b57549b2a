import type { BudgetedRequest, Outcome } from "./outcome.ts";
import type { SimulatedResult } from "./simulator.ts";
import type { MeasuredCosts } from "./measured_costs.ts";
import type { Summary } from "./summary.ts";

/** Everything that a replay found. */
export interface ReplayReport {
  readonly model: string;
  readonly engine: string;
  readonly kernels: string;
  readonly threads: number;
  readonly slots: number;
  /** How arrivals came, in words. */
  readonly trace: string;
  /** Of the trace of each round. */
  readonly seconds: number;
  readonly onMiss: string;
  /** Budgets as multiples of the time that a request takes at rate 0 when it is alone. */
  readonly budgets: Readonly<Record<string, number>>;
  /** When half of the cores were taken away, if they were. */
  readonly halfCpuAtSeconds: number | null;
  /** What was measured before each round. */
  readonly rounds: readonly RoundReport[];
  readonly loads: readonly LoadReport[];
}

/** The machine as a round found it; its traces are scaled by this. */
export interface RoundReport {
  readonly seed: number;
  readonly costs: MeasuredCosts;
  /** Requests per second that rate 0 sustains. */
  readonly capacity: number;
}

/** The traces of all rounds at one load, and how every policy did with them. */
export interface LoadReport {
  /** Offered load as a multiple of the capacity. */
  readonly load: number;
  /** By round and arrival. */
  readonly requests: readonly BudgetedRequest[];
  readonly runs: readonly PolicyRun[];
  /** `null` if it was not asked for. */
  readonly oracle: Pick<SimulatedResult, "attainment" | "meanRate"> | null;
}

export interface PolicyRun {
  readonly policy: string;
  readonly summary: Summary;
  /** Median absolute prediction error around the moment when cores were taken away. */
  readonly halfCpu: HalfCpuErrors | null;
  /** What the simulator of the oracle makes of the decisions that this policy took. */
  readonly simulated: Pick<SimulatedResult, "attainment" | "meanRate">;
  /** By round and arrival. */
  readonly outcomes: readonly Outcome[];
}

export interface HalfCpuErrors {
  readonly before: number;
  /** The first 20 s after it. */
  readonly within: number;
  /** From 20 s after it on. */
  readonly after: number;
}
