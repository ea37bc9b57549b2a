import type { LoadSnapshot } from "../load.ts";
import type { Policy } from "./policy.ts";

/** Room that a level wider than what runs must leave: rates come down only where they will stay. */
const WIDER_MARGIN = 1.1;

/**
 * The widest level at which the request is predicted to keep its budget, with safety, and to break no budget of others
 * that a narrower level would leave whole. One wide sequence makes every step read the wide weights, so what a request
 * takes is taken from all.
 *
 * If no level will do, the request runs as narrow as it may; at its arrival it is refused instead when only the load
 * stands in its way.
 */
export function predictive({ pruningRates, shed }: { pruningRates: readonly number[]; shed: boolean }): Policy {
  return (load, { floorLevel, hasBudget, stage }, predictor) => {
    const narrow = predictor.underLoad(floorLevel, { othersLevel: floorLevel });
    for (let level = 0; level < floorLevel; level++) {
      const margin = isWider(load, pruningRates[level]!) ? WIDER_MARGIN : 1;
      const { meets, othersMissed } = predictor.underLoad(level, { othersLevel: level, margin });
      if (!meets || othersMissed > narrow.othersMissed) continue;
      const reason = level === 0 ? "idle" : predictor.keepsOnIdle(0) ? "load" : "budget";
      return { kind: "run", level, reason, fits: true };
    }
    const fits = narrow.meets && narrow.othersMissed <= predictor.missedWithout(floorLevel);
    const waits = load.requestsRunning + load.requestsWaiting >= load.slots;
    if (shed && stage === "arrival" && hasBudget && waits && !fits && predictor.keepsOnIdle(floorLevel)) {
      return { kind: "refuse" };
    }
    const lost = hasBudget && !narrow.meets;
    const reason = !narrow.meets ? "floor" : floorLevel === 0 ? "idle" : predictor.keepsOnIdle(0) ? "load" : "budget";
    return { kind: "run", level: floorLevel, reason, fits: narrow.meets, lost };
  };
}

function isWider({ requestsRunning, effectivePruningRate }: LoadSnapshot, pruningRate: number): boolean {
  return requestsRunning > 0 && pruningRate < effectivePruningRate;
}
