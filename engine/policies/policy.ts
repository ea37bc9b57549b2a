import type { LoadSnapshot } from "../load.ts";
import type { Predictor, Situation } from "../predictor.ts";
import type { RateReason } from "../rate_choice.ts";

/** What a policy knows of a request besides what the predictor says. */
export interface RateRequest {
  /** The narrowest level allowed. */
  readonly floorLevel: number;
  /** Whether it has a budget of its own. Without one the service's targets stand in for it. */
  readonly hasBudget: boolean;
  /** At its arrival it can be refused for want of time; when it gets its slot, its level is settled. */
  readonly stage: "arrival" | "start";
}

export type Decision =
  | {
    readonly kind: "run";
    readonly level: number;
    readonly reason: RateReason;
    /** Whether its limits are expected to be kept. */
    readonly fits: boolean;
    /** Its budget is lost whatever is done: those whose budgets can be kept go first. */
    readonly lost?: boolean;
  }
  /** It would wait too long to keep a budget that it could keep on an idle machine. */
  | { readonly kind: "refuse" };

/** Pure functions: of the same load, request and predictor they make the same decision. */
export interface Policy {
  /** Chooses the level of a request. */
  readonly choose: (load: LoadSnapshot, request: RateRequest, predictor: Predictor) => Decision;
  /**
   * The same for a request that is pinned to a level: whether it is refused, and whether its budget is lost. A policy
   * without it lets every such request in.
   */
  readonly choosePinned?: (
    load: LoadSnapshot,
    request: Omit<RateRequest, "floorLevel"> & { readonly pinnedLevel: number },
    predictor: Predictor,
  ) => Decision;
  /** The level that wider running requests are narrowed to. A policy without it lets each keep its level to its end. */
  readonly narrow?: (load: LoadSnapshot, situation: Situation) => number;
  /** Whether prompts are held back while they would cost a running answer its budget; see `holdsPrompts()`. */
  readonly holdsPrompts?: true;
}

export interface PolicyOptions {
  /** The prepared rates, 0 first. */
  readonly pruningRates: readonly number[];
  /** Whether requests are refused that would wait too long for their budget. */
  readonly shed: boolean;
}
