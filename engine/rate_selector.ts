import type { GenerationRequest } from "./generation.ts";
import { hasBudget } from "./limits.ts";
import type { LoadSensor } from "./load_sensor.ts";
import type { Decision, Policy, RateRequest } from "./policies/mod.ts";
import { type OthersLevels, Predictor, Situation, type SituationOptions } from "./predictor.ts";
import type { RateChoice } from "./rate_choice.ts";
import type { RefusalReason } from "./refusal_reason.ts";
import type { RunningWork, WaitingWork } from "./request_work.ts";
import type { StepCosts } from "./step_costs.ts";

export interface RateSelectorOptions {
  readonly costs: StepCosts;
  readonly policy: Policy;
  readonly sensor: LoadSensor;
  readonly prefillChunk: number;
  /** Whether what runs can be narrowed at all. */
  readonly narrows: boolean;
}

/** The requests that there are at one instant. */
export interface RequestsNow {
  readonly running: readonly RunningWork[];
  /** In the order in which they get slots. */
  readonly waiting: readonly WaitingWork[];
  readonly busyMs: number;
  readonly nowMs: number;
}

/** A request, and the others that there are with it. */
export interface RateQuestion extends RequestsNow {
  readonly request: GenerationRequest;
  readonly work: WaitingWork;
  /** Its place among those who wait. */
  readonly place: number;
  readonly stage: RateRequest["stage"];
}

export type RateAnswer =
  | {
    readonly kind: "run";
    readonly choice: RateChoice;
    /** Its budget is lost, and others should go first. */
    readonly lost: boolean;
  }
  | {
    readonly kind: "refuse";
    readonly reason: Extract<RefusalReason, "budget" | "overload">;
    readonly choice: RateChoice;
  };

/** Asks the policy for levels, and says what is predicted with them. */
export class RateSelector {
  readonly #options: RateSelectorOptions;
  /** The same in all predictions. */
  readonly #fixed: Pick<SituationOptions, "costs" | "prefillChunk" | "holdsPrompts">;

  constructor(options: RateSelectorOptions) {
    const { costs, prefillChunk, policy } = options;
    this.#options = options;
    this.#fixed = { costs, prefillChunk, holdsPrompts: policy.holdsPrompts ?? false };
  }

  /** The level of a request. Refusals come at its arrival only: whoever was let in is served. */
  choose(question: RateQuestion): RateAnswer {
    const { policy, sensor } = this.#options;
    const { request, work, place, stage, running, waiting, busyMs, nowMs } = question;
    const { pinnedLevel, floorLevel, onMiss } = request;
    const load = sensor.snapshot(nowMs);
    const predictor = new Predictor({ ...this.#fixed, load, running, waiting, busyMs, request: work, place });
    const asked = { hasBudget: hasBudget(request), stage };
    const decision: Decision = pinnedLevel === null
      ? policy.choose(load, { floorLevel, ...asked }, predictor)
      : policy.choosePinned?.(load, { pinnedLevel, ...asked }, predictor) ?? {
        kind: "run",
        level: pinnedLevel,
        reason: "pinned",
        fits: predictor.underLoad(pinnedLevel, this.#othersAt(predictor.levels - 1)).meets,
      };
    if (decision.kind === "refuse") {
      const [level, reason] = pinnedLevel === null ? [floorLevel, "floor" as const] : [pinnedLevel, "pinned" as const];
      const choice = this.#described(question, predictor, { kind: "run", level, reason, fits: false });
      return { kind: "refuse", reason: onMiss === "reject" ? "budget" : "overload", choice };
    }
    const choice = this.#described(question, predictor, decision);
    if (!choice.fits && onMiss === "reject" && stage === "arrival") return { kind: "refuse", reason: "budget", choice };
    return { kind: "run", choice, lost: decision.lost ?? false };
  }

  /** The level that wider running requests are to be narrowed to; 0 if they are to be left as they are. */
  narrowLevel(now: RequestsNow): number {
    const { policy, sensor, narrows } = this.#options;
    if (!narrows || policy.narrow === undefined) return 0;
    const load = sensor.snapshot(now.nowMs);
    return policy.narrow(load, this.#situation(now));
  }

  /** Whether the next step is to leave prompts out. */
  promptsHeld(now: RequestsNow): boolean {
    return this.#fixed.holdsPrompts && this.#situation(now).promptsHeld();
  }

  /** When the work that there is will be done. */
  remainingMs(now: RequestsNow): number {
    return this.#situation(now).remainingMs();
  }

  #situation({ running, waiting, busyMs, nowMs }: RequestsNow): Situation {
    const load = this.#options.sensor.snapshot(nowMs);
    return new Situation({ ...this.#fixed, load, running, waiting, busyMs });
  }

  #othersAt(level: number): OthersLevels {
    const { policy, narrows } = this.#options;
    return { waiting: level, running: narrows && policy.narrow !== undefined ? level : 0 };
  }

  #described(
    { request, work, nowMs }: RateQuestion,
    predictor: Predictor,
    { level, reason, fits }: Extract<Decision, { kind: "run" }>,
  ): RateChoice {
    const elapsedMs = nowMs - request.arrivedMs;
    const { finish } = predictor.underLoad(level, this.#othersAt(level));
    const atRate0 = level === 0 ? finish : predictor.underLoad(0, this.#othersAt(0)).finish;
    return {
      level,
      reason,
      predictedMs: elapsedMs + finish.lastTokenMs,
      predictedMsAtRate0: elapsedMs + atRate0.lastTokenMs,
      predictedTtftMs: elapsedMs + finish.firstTokenMs,
      // An answer that is expected to be one token long may turn out longer: then its steps take what one more would.
      predictedTpotMs: work.newTokens > 1
        ? (finish.lastTokenMs - finish.firstTokenMs) / (work.newTokens - 1)
        : predictor.decodeStepMs(level),
      fits: fits || !hasBudget(request),
    };
  }
}
