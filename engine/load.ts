import type { StepKind } from "./step_costs.ts";

/** What is known about load at one instant. All of it comes from the registry that `/metrics` shows. */
export interface LoadSnapshot {
  readonly slots: number;
  readonly requestsRunning: number;
  readonly requestsWaiting: number;
  readonly waitingPromptTokens: number;
  /** Mean rate of the running requests; 0 if there are none. */
  readonly effectivePruningRate: number;
  /** Share of the machine that other work takes, 0 to 1. */
  readonly contention: number;
  /** Measured time of a step divided by the table's, as it is now. */
  readonly stepRatio: (kind: StepKind) => number;
  /** What the service does between two steps: tokens chosen and sent, levels decided; in milliseconds. */
  readonly betweenStepsMs: number;
  /** How whole requests differ from what was predicted. */
  readonly predictionError: {
    /** The median of actual divided by predicted time. */
    readonly median: number;
    /** What predictions are multiplied by to hold four times out of five. */
    readonly safe: number;
    /** The same for nineteen times out of twenty. */
    readonly sure: number;
  };
  /** Requests that come. */
  readonly arrivals: {
    /** Lately: over ten seconds. */
    readonly perSecond: number;
    /** Over forty seconds, in which a short burst hardly shows. */
    readonly sustainedPerSecond: number;
    readonly promptTokens: number;
    readonly newTokens: number;
  };
}
