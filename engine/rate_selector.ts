import type { GenerationRequest } from "./generation.ts";
import { hasBudget } from "./limits.ts";
import type { LoadSnapshot } from "./load.ts";
import type { LoadSensor } from "./load_sensor.ts";
import type { Decision, Policy, RateRequest } from "./policies/mod.ts";
import { NO_LIMITS, Predictor, type RunningWork, type WaitingWork } from "./predictor.ts";
import type { RateChoice } from "./rate_choice.ts";
import type { StepCosts } from "./step_costs.ts";

export interface RateSelectorOptions {
  readonly costs: StepCosts;
  readonly policy: Policy;
  readonly sensor: LoadSensor;
  readonly prefillChunk: number;
}

/** A request, and the others that there are with it. */
export interface RateQuestion {
  readonly request: GenerationRequest;
  readonly work: WaitingWork;
  readonly stage: RateRequest["stage"];
  readonly running: readonly RunningWork[];
  readonly before: readonly WaitingWork[];
  readonly after: readonly WaitingWork[];
  readonly busyMs: number;
  readonly nowMs: number;
}

export type RateAnswer =
  | {
    readonly kind: "run";
    readonly choice: RateChoice;
    /** Its budget is lost, and others should go first. */
    readonly lost: boolean;
  }
  /** `budget`: no rate will do. `overload`: other requests stand in its way. */
  | { readonly kind: "refuse"; readonly reason: "budget" | "overload"; readonly choice: RateChoice };

/** Asks the policy for a level, and says what is predicted with it. */
export class RateSelector {
  readonly #options: RateSelectorOptions;

  constructor(options: RateSelectorOptions) {
    this.#options = options;
  }

  choose(question: RateQuestion): RateAnswer {
    const { policy, sensor } = this.#options;
    const { request, stage, nowMs } = question;
    const { pinnedLevel, floorLevel, onMiss } = request;
    const load = sensor.snapshot(nowMs);
    const predictor = this.#predictor(question, load);
    const decision: Decision = pinnedLevel === null
      ? policy(load, { floorLevel, hasBudget: hasBudget(request), stage }, predictor)
      : {
        kind: "run",
        level: pinnedLevel,
        reason: "pinned",
        fits: predictor.underLoad(pinnedLevel, { othersLevel: predictor.levels - 1 }).meets,
      };
    if (decision.kind === "refuse") {
      const choice = described(question, predictor, { kind: "run", level: floorLevel, reason: "floor", fits: false });
      return { kind: "refuse", reason: onMiss === "reject" ? "budget" : "overload", choice };
    }
    const choice = described(question, predictor, decision);
    if (!choice.fits && onMiss === "reject") return { kind: "refuse", reason: "budget", choice };
    return { kind: "run", choice, lost: decision.lost ?? false };
  }

  /** When the work that there is will be done. */
  remainingMs(question: Omit<RateQuestion, "request" | "work" | "stage">): number {
    const nothing: WaitingWork = {
      promptTokens: 1,
      newTokens: 1,
      waitedMs: 0,
      limits: NO_LIMITS,
      narrowestLevel: 0,
      widestLevel: 0,
    };
    return this.#predictor({ ...question, work: nothing }, this.#options.sensor.snapshot(question.nowMs)).remainingMs();
  }

  #predictor(question: Omit<RateQuestion, "request" | "stage">, load: LoadSnapshot): Predictor {
    const { costs, prefillChunk } = this.#options;
    const { work, running, before, after, busyMs } = question;
    return new Predictor({ costs, load, prefillChunk, running, before, request: work, after, busyMs });
  }
}

function described(
  { request, work, nowMs }: RateQuestion,
  predictor: Predictor,
  { level, reason, fits }: Extract<Decision, { kind: "run" }>,
): RateChoice {
  const elapsedMs = nowMs - request.arrivedMs;
  const { finish } = predictor.underLoad(level, { othersLevel: level });
  const atRate0 = level === 0 ? finish : predictor.underLoad(0, { othersLevel: 0 }).finish;
  return {
    level,
    reason,
    predictedMs: elapsedMs + finish.lastTokenMs,
    predictedMsAtRate0: elapsedMs + atRate0.lastTokenMs,
    predictedTtftMs: elapsedMs + finish.firstTokenMs,
    predictedTpotMs: (finish.lastTokenMs - finish.firstTokenMs) / Math.max(1, work.newTokens - 1),
    fits: fits || !hasBudget(request),
  };
}
