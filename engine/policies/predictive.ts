import type { LoadSnapshot } from "../load.ts";
import type { Policy } from "./policy.ts";

/** Room that a level wider than what runs must leave: rates come down only where they will stay. */
const WIDER_MARGIN = 1.1;

/**
 * Utilization at rate 0 from which on rates begin to rise, and at which all are the largest. What runs wide when a
 * burst comes cannot be made narrow any more, so the pace of arrivals counts, not only who is there. Chosen on the
 * traces of `policies_test.ts`: with more, fewer budgets are met at 1.2 times the sustained load; with less, rates rise
 * at half of it.
 */
const [LIGHT, HEAVY] = [0.7, 1];

/**
 * The widest level at which the request is predicted to keep its budget, with safety, and to break no budget of others
 * that a narrower level would leave whole. One wide sequence makes every step read the wide weights, so what a request
 * takes is taken from all. The busier the machine has been, the narrower the level that this begins with.
 *
 * If no level will do, the request runs as narrow as it may; at its arrival it is refused instead when only the load
 * stands in its way.
 */
export function predictive({ pruningRates, shed }: { pruningRates: readonly number[]; shed: boolean }): Policy {
  return (load, { floorLevel, hasBudget, stage }, predictor) => {
    const narrow = predictor.underLoad(floorLevel, { othersLevel: floorLevel });
    const waits = load.requestsRunning + load.requestsWaiting >= load.slots;
    if (shed && stage === "arrival" && hasBudget && waits && predictor.keepsOnIdle(floorLevel)) {
      if (!narrow.meets || narrow.othersMissed > predictor.missedWithout(floorLevel)) return { kind: "refuse" };
    }
    const idle = load.requestsRunning + load.requestsWaiting === 0;
    const pressure = idle ? 0 : Math.min(1, Math.max(0, (predictor.utilization(0) - LIGHT) / (HEAVY - LIGHT)));
    for (let level = Math.round(pressure * (predictor.levels - 1)); level < floorLevel; level++) {
      const margin = isWider(load, pruningRates[level]!) ? WIDER_MARGIN : 1;
      const { meets, othersMissed } = predictor.underLoad(level, { othersLevel: level, margin });
      if (!meets || othersMissed > narrow.othersMissed) continue;
      const reason = level === 0 ? "idle" : predictor.keepsOnIdle(0) ? "load" : "budget";
      return { kind: "run", level, reason, fits: true };
    }
    const lost = hasBudget && !narrow.meets;
    const reason = !narrow.meets ? "floor" : floorLevel === 0 ? "idle" : predictor.keepsOnIdle(0) ? "load" : "budget";
    return { kind: "run", level: floorLevel, reason, fits: narrow.meets, lost };
  };
}

function isWider({ requestsRunning, effectivePruningRate }: LoadSnapshot, pruningRate: number): boolean {
  return requestsRunning > 0 && pruningRate < effectivePruningRate;
}
