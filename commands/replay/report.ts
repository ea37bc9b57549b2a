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
  readonly seconds: number;
  readonly seed: number;
  readonly onMiss: string;
  /** Budgets as multiples of the time that a request takes at rate 0 when it is alone. */
  readonly budgets: Readonly<Record<string, number>>;
  /** When half of the cores were taken away, if they were. */
  readonly halfCpuAtSeconds: number | null;
  readonly costs: MeasuredCosts;
  /** Requests per second that rate 0 sustains. */
  readonly capacity: number;
  readonly loads: readonly LoadReport[];
}

/** One trace, and how every policy did with it. */
export interface LoadReport {
  /** Offered load as a multiple of the capacity. */
  readonly load: number;
  readonly requests: readonly BudgetedRequest[];
  readonly runs: readonly PolicyRun[];
  /** `null` if it was not asked for. */
  readonly oracle: Omit<SimulatedResult, "missed"> | null;
}

export interface PolicyRun {
  readonly policy: string;
  readonly summary: Summary;
  /** Median absolute prediction error around the moment when cores were taken away. */
  readonly halfCpu: HalfCpuErrors | null;
  /** What the simulator of the oracle makes of the decisions that this policy took. */
  readonly simulated: Omit<SimulatedResult, "missed">;
  readonly outcomes: readonly Outcome[];
}

export interface HalfCpuErrors {
  readonly before: number;
  /** The first 20 s after it. */
  readonly within: number;
  /** From 20 s after it on. */
  readonly after: number;
}
