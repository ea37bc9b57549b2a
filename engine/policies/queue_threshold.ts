import type { Policy } from "./policy.ts";

/** Requests in the queue, per slot, at which the narrowest level is taken. */
const FULL_QUEUE = 2;

/** The longer the queue, the narrower: level 0 while no one waits, the last from two waiting requests per slot on. */
export function queueThreshold(): Policy {
  const choose: Policy["choose"] = ({ requestsWaiting, slots }, { floorLevel }, predictor) => {
    const share = Math.min(1, requestsWaiting / (FULL_QUEUE * slots));
    const wanted = Math.ceil(share * (predictor.levels - 1));
    const level = Math.min(wanted, floorLevel);
    const { meets } = predictor.underLoad(level, { waiting: wanted, running: 0 });
    return { kind: "run", level, reason: level === 0 ? "idle" : level < wanted ? "floor" : "load", fits: meets };
  };
  return { choose };
}
